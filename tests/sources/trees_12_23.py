"""Miniatures of the sources 12 to 23, and of 5 and 42."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.sources.miniature import Archive, Expectation, Mini, Sample, blob, miniature, one, some


@miniature("covid-blues")
def covid_blues(mini: Mini) -> Expectation:
    samples, severity, patients = {}, [], []
    for name, point, score, lines in (
        ("patient_1_L1", "L1", "0.0", "yes"), ("patient_2_R3", "R3", "2.0", "no "),
        ("patient_2_R3_2", "R3", "3.0", "no"),
    ):  # fmt: skip
        member = f"lus_videos/{name}.mp4"
        patient = name.split("_")[1]
        labels = {
            "severity": score[0], "a-lines": "present", "b-lines": "present" if lines == "yes" else "absent",
            "covid": "positive" if patient == "1" else "negative", "point": point,
        }  # fmt: skip
        frames = mini.clip(member, 4, dark=2 if name == "patient_2_R3" else 0)
        samples[member] = Sample(
            some(frames, 2, 3) if name == "patient_2_R3" else some(frames), labels, patient
        )
        severity.append(
            {"video_file": name, "Severity Score": score, "A-lines": "yes", "B-lines": lines, "comments": ""}
        )
    for patient, test in (("1", "1"), ("2", "0")):
        patients.append({"patient_id": patient, "cov_test": test, "number_video_files": "2"})
    mini.table("severity.csv", severity)
    mini.table("clinical_variables.csv", patients)
    mini.text("variable_explanations.csv", "name,meaning\ncov_test,1 is positive\n")
    mini.image("sample_video.gif", "P")
    mini.bytes("appendix.pdf", b"%PDF-1.4\n")
    for name in ("README.md", "LICENSE"):
        mini.text(name)
    top = "COVID-BLUES-1857a6fba9b8d00614f133fe8ffb7bc1f1a14f78"
    return Expectation(
        samples, ("sample_video.gif",), {"severity.csv": "A-lines", "clinical_variables.csv": "cov_test"},
        (Archive(f"{top}.zip", prefix=top),),
    )  # fmt: skip


@miniature("bus-bra")
def bus_bra(mini: Mini) -> Expectation:
    samples, never = {}, []
    facts, five, ten = [], [], []
    for name, case, pathology, fold in (
        ("0001-l", 1, "benign", 3), ("0001-r", 1, "benign", 3), ("0006-s", 6, "malignant", 1),
    ):  # fmt: skip
        mask = mini.mask(f"BUSBRA/Masks/mask_{name}.png", "1")
        labels = {
            "pathology": pathology, "birads": "4", "histology": "fibroadenoma", "device": "GE Logiq 7", "fold10": "7",
        }  # fmt: skip
        samples[f"Images/bus_{name}.png"] = Sample(
            one(mini.image(f"BUSBRA/Images/bus_{name}.png")),
            labels,
            str(case),
            split=f"fold{fold}",
            mask=mask,
        )
        never.append(mask)
        common = {"ID": f"bus_{name}", "Pathology": pathology}
        facts.append(
            {"ID": f"bus_{name}", "Case": case, "Histology": "fibroadenoma", "Pathology": pathology, "BIRADS": 4,
             "Device": "GE Logiq 7", "Width": 64, "Height": 48, "Side": "left", "BBOX": "[1,2,3,4]"}
        )  # fmt: skip
        five.append(common | {"kFold": fold, "valid_1": 1})
        ten.append(common | {"kFold": 7, "valid_1": 1})
    mini.table("BUSBRA/bus_data.csv", facts)
    mini.table("BUSBRA/5-fold-cv.csv", five)
    mini.table("BUSBRA/10-fold-cv.csv", ten)
    mini.text("BUSBRA/LICENSE.txt")
    tables = {
        "BUSBRA/bus_data.csv": "Case",
        "BUSBRA/5-fold-cv.csv": "kFold",
        "BUSBRA/10-fold-cv.csv": "kFold",
    }
    return Expectation(samples, tuple(never), tables, (Archive("BUSBRA.zip"),))


@miniature("cactus")
def cactus(mini: Mini) -> Expectation:
    top = "Cactus Dataset"
    names = {
        "A4C": "apical four-chamber", "SC": "subcostal four-chamber", "PL": "parasternal long axis",
        "PSAV": "parasternal short axis, aortic valve", "PSMV": "parasternal short axis, mitral valve",
        "Random": "random",
    }  # fmt: skip
    samples = {}
    for number, (view, label) in enumerate(names.items()):
        grade = "0" if view == "Random" else "10" if view == "A4C" else str(number)
        name = f"{grade}_frame{number}.jpg"
        member = f"Images Dataset/{view}/{name}"
        samples[member] = Sample(one(mini.image(f"{top}/{member}", "RGB")), {"view": label, "grade": grade})
        row = {"Image Name": name, "Subfolder Name": view, "Grade": grade}
        mini.table(f"{top}/Grades/{view}_grades.csv", [row], bom=True)
    never = [f"{top}/Videos/Training/Video1.mp4", f"{top}/Videos/Real Time Scan/scan with output.mp4"]
    for path in never:
        mini.clip(path, 3)
    mini.table(f"{top}/Videos/Training/Video1.csv", [{"frame": 0, "view": "A4C", "grade": 7}])
    return Expectation(samples, tuple(never), archives=(Archive("CactusDataset_2025.110003.zip"),))


@miniature("camus-public")
def camus_public(mini: Mini) -> Expectation:
    samples, never, tables = {}, [], {}
    for patient, split in (("patient0001", "train"), ("patient0002", "val"), ("patient0500", "test")):
        for view, label in (("2CH", "apical two-chamber"), ("4CH", "apical four-chamber")):
            stem = f"{patient}/{patient}_{view}"
            frames = mini.frames(stem, 5)
            mini.nifti(f"database_nifti/{stem}_half_sequence.nii.gz", np.stack(frames))
            for moment, frame in (("ED", 0), ("ES", 4)):
                mini.nifti(f"database_nifti/{stem}_{moment}.nii.gz", frames[frame])
                mini.nifti(f"database_nifti/{stem}_{moment}_gt.nii.gz", blob(stem, value=frame))
                never += [f"database_nifti/{stem}_{moment}{end}.nii.gz" for end in ("", "_gt")]
            mask = f"database_nifti/{stem}_half_sequence_gt.nii.gz"
            mini.nifti(mask, np.stack([blob(f"{stem}{i}", value=1 + i % 3) for i in range(5)]))
            never.append(mask)
            facts = f"database_nifti/{patient}/Info_{view}.cfg"
            mini.text(
                facts,
                "ED: 1\nES: 5\nNbFrame: 5\nSex: F\nAge: 56\nImageQuality: Good\nEF: 61.5\nFrameRate: 50.0\n",
            )
            tables[facts] = "ImageQuality"
            labels = {"view": label, "quality": "Good", "ef": "61.5", "sex": "F", "age": "56"}
            samples[f"{stem}_half_sequence.nii.gz"] = Sample(
                some(frames), labels, patient, split=split, mask=mask
            )
    for name, patient in (
        ("training", "patient0001"),
        ("validation", "patient0002"),
        ("testing", "patient0500"),
    ):
        mini.text(f"database_split/subgroup_{name}.txt", f"{patient}\n")
        tables[f"database_split/subgroup_{name}.txt"] = ""
    mini.text("database_split/information.txt")
    archives = tuple(Archive(f"{name}.zip", name, name) for name in ("database_nifti", "database_split"))
    return Expectation(samples, tuple(never), tables, archives)


@miniature("cardiacudc")
def cardiacudc(mini: Mini) -> Expectation:
    samples, never = {}, []
    for folder, name in (
        ("Site_G_20", "patient-1-4"), ("Site_G_100", "patient-1-4"), ("Site_R_73", "patient-53-4"),
        ("label_all_frame", "normal-27-4"),
    ):  # fmt: skip
        member = f"{folder}/{name}_image.nii.gz"
        frames = mini.frames(member, 4)
        mini.nifti(f"cardiacUDC_dataset/{member}", np.stack(frames)[:, ::-1, ::-1])  # stored upside down
        site = {"site": folder} if folder.startswith("Site_") else {}
        sample = Sample(
            some(frames),
            {**site, "name-prefix": name.split("-")[0]},
            f"{folder}/{name.rsplit('-', 1)[0]}",
        )
        if folder != "Site_R_73":
            sample.mask = f"cardiacUDC_dataset/{folder}/{name}_label.nii.gz"
            mini.nifti(sample.mask, np.stack([blob(f"{member}{i}", value=i % 2) for i in range(4)]))
            never.append(sample.mask)
        samples[member] = sample
    return Expectation(samples, tuple(never), archives=(Archive("cardiacUDC_dataset.change2zip", parts=7),))


@miniature("ccaui")
def ccaui(mini: Mini) -> Expectation:
    top = "Common Carotid Artery Ultrasound Images"
    samples, never = {}, []
    for series, number in (
        ("202201121748100022VAS", 1069), ("202201121748100022VAS", 1070), ("202202071359200056VAS", 258),
    ):  # fmt: skip
        name = f"{series}_slice_{number}.png"
        mask = mini.mask(f"{top}/Expert mask images/{name}")
        samples[f"US images/{name}"] = Sample(
            one(mini.image(f"{top}/US images/{name}", "RGB")), clip=series, mask=mask
        )
        never.append(mask)
    return Expectation(samples, tuple(never), archives=(Archive("d4xt63mgjm-1.zip"),))


@miniature("dfhi")
def dfhi(mini: Mini) -> Expectation:
    samples, never, archives = {}, [], []
    masks = {"Trans-ventricular": "Trans-ventricular-segmentation-mask"}
    for number, plane in enumerate(("Trans-thalamic", "Trans-cerebellum", "Trans-ventricular"), 1):
        name = f"Patient{number:05d}_Plane3_1_of_2.png"
        mask = f"{plane}/{masks.get(plane, plane + '-Segmentation')}/SegmentationClass/{name}"
        mini.mask(mask, colour=(255, 0, 0))
        samples[f"{plane}/{name}"] = Sample(
            one(mini.image(f"{plane}/{plane}/{name}", "RGB")), {"plane": plane.lower()}, name[:12], mask=mask
        )
        never += [mask, mini.mask(f"{plane}/{plane}-PASCAL/SegmentationObject/{name}", colour=(128, 0, 0))]
        never.append(mini.mask(f"{plane}/{plane}-CityScapes/gtFine/default/{name}", colour=(9, 9, 9)))
        mini.text(f"{plane}/{plane}-PASCAL/labelmap.txt", "brain:128,0,0::\n")
        mini.table(f"{plane}/{plane}-Pixel-Size.csv", [{"Label": name[:-4], "Pixel  in mm": 0.1}], bom=True)
        never.append(f"{plane}-orginal-size/{plane}/{name}")
        mini.image(never[-1], "RGBA", (2 * 64, 2 * 48))
        archives.append(Archive(f"{plane}.zip", plane, plane))
    top = "Diverse Fetal Head Images"
    for name, patient in (("001_HC.png", "001"), ("001_2HC.png", "001"), ("805_HC.png", "805")):
        folder = "Orginal_train_images_to_959_661"
        mask = mini.mask(f"{top}/Test-Dataset-Segmentation/SegmentationClass/{name}", colour=(255, 255, 0))
        samples[f"{top}/{folder}/{name}"] = Sample(
            one(mini.image(f"{top}/{folder}/{name}", "RGB")),
            {"plane": "diverse"},
            f"{folder}/{patient}",
            mask=mask,
        )
        never += [mask, f"{top}-orginal-image/{name}"]
        mini.image(never[-1], "RGBA", (2 * 64, 2 * 48))
    archives.append(Archive(f"{top}.zip", top, top))
    return Expectation(samples, tuple(never), archives=tuple(archives))


@miniature("echocp")
def echocp(mini: Mini) -> Expectation:
    samples, never, rows = {}, [], []
    for name, action, written, level in (
        ("001_r", "rest", "r", "o"), ("001_v", "Valsalva", "v", 2), ("030_v", "Valsalva", "valsalva", "0"),
    ):  # fmt: skip
        frames = mini.frames(name, 5)
        mini.nifti(
            f"EchoCP_dataset/{name}_image.nii.gz", np.stack(frames)[:, ::-1, ::-1]
        )  # stored upside down
        mask = f"EchoCP_dataset/{name}_label.nii.gz"
        mini.nifti(mask, np.stack([blob(f"{name}{i}", value=i % 5) for i in range(5)]))
        number = "2" if level == 2 else "0"
        labels = {"action": action, "pfo": "present" if level == 2 else "absent", "pfo-level": number}
        samples[f"{name}_image.nii.gz"] = Sample(some(frames, 0, 2, 4), labels, name[:3], mask=mask)
        never.append(mask)
        rows.append({"Idx": int(name[:3]), "Action": written, "PFO level (o indicates No PFO)": level})
    table = "echoCP_diagnosis_label.xlsx"
    mini.sheet(table, rows)
    archive = Archive("EchoCP_dataset.change2zip", "EchoCP_dataset", "EchoCP_dataset", parts=2)
    return Expectation(samples, tuple(never), {table: "Action"}, (archive,))


@miniature("echonet-dynamic")
def echonet_dynamic(mini: Mini) -> Expectation:
    top = "EchoNet-Dynamic"
    samples, rows, tracings = {}, [], []
    for name, split in (
        ("0X100009310A3BD7FC", "TRAIN"),
        ("0X13CE2039E2D706A", "VAL"),
        ("0X5DD5283AC43CCDD1", "TEST"),
    ):
        member = f"Videos/{name}.avi"
        frames = mini.clip(f"{top}/{member}", 9, (112, 112))
        samples[member] = Sample(
            some(frames, 2, 6), {"view": "apical four-chamber", "ef": "78.4983"}, name, split=split.lower()
        )
        rows.append({"FileName": name, "EF": 78.4983, "ESV": 15.1, "EDV": 70.2, "FrameHeight": 112, "FrameWidth": 112,
                     "FPS": 50, "NumberOfFrames": 9, "Split": split})  # fmt: skip
        tracings.append(
            {"FileName": f"{name}.avi", "X1": 50.8, "Y1": 16.2, "X2": 60.4, "Y2": 76.7, "Frame": 4}
        )
    mini.table(f"{top}/FileList.csv", rows)
    mini.table(f"{top}/VolumeTracings.csv", tracings)
    return Expectation(samples, (), {f"{top}/FileList.csv": "Split"}, (Archive("EchoNet-Dynamic.zip"),))


@miniature("echonet-pediatric")
def echonet_pediatric(mini: Mini) -> Expectation:
    top = "pediatric_echo_avi/pediatric_echo_avi"
    samples, tables = {}, {}
    for view, label, fold, name in (
        ("A4C", "apical four-chamber", 0, "CR32a7555-CR32a7582-000039"),
        ("PSAX", "parasternal short axis", 9, "CR32a7555-CR32a7f41-000101"),
    ):
        member = f"{view}/Videos/{name}.avi"
        frames = mini.clip(f"{top}/{member}", 8, (112, 112))
        labels = {"view": label, "ef": "61.2", "sex": "F", "age": "7"}
        samples[member] = Sample(some(frames, 2, 6), labels, "CR32a7555", split=f"fold{fold}")
        mini.table(
            f"{top}/{view}/FileList.csv",
            [
                {
                    "FileName": f"{name}.avi",
                    "EF": 61.2,
                    "Sex": "F",
                    "Age": 7,
                    "Weight": 20,
                    "Height": 120,
                    "Split": fold,
                }
            ],
        )
        mini.table(
            f"{top}/{view}/VolumeTracings.csv",
            [{"FileName": f"{name}.avi", "X": 1, "Y": 2, "Frame": "No Systolic"}],
        )
        tables[f"{top}/{view}/FileList.csv"] = "Split"
    return Expectation(samples, (), tables, (Archive("echonetpediatric.zip"),))


@miniature("fallmud")
def fallmud(mini: Mini) -> Expectation:
    samples, never = {}, []
    for half, origin, names, end in (
        ("NeilCronin", "Cronin 2020", ("img_00001.tif", "img_00002.tif"), ".jpg"),
        ("RyanCunningham", "Cunningham 2018", ("0.jpg", "1.jpg"), ".jpg"),
    ):
        for name in names:
            mask = mini.mask(f"FALLMUD/{half}/fascicle_masks/{name}")
            samples[f"{half}/images/{name}"] = Sample(
                one(mini.image(f"FALLMUD/{half}/images/{name}", "RGB")), {"origin": origin}, mask=mask
            )
            never += [mask, mini.mask(f"FALLMUD/{half}/aponeurosis_masks/{name.rsplit('.', 1)[0]}{end}")]
    return Expectation(samples, tuple(never), archives=(Archive("FALLMUD.zip"),))


UNPICKLED = "somebody-loaded-a-pickle"


class Trap:
    """Leaves a file behind when it is unpickled, as hostile code would."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@miniature("fass")
def fass(mini: Mini) -> Expectation:
    name = "Fetal Abdominal Structures Segmentation Dataset Using Ultrasonic Images"
    samples, never = {}, []
    for stem, mode in (("P01_IMG1", "L"), ("P0149_IMG2", "L"), ("P03_IMG1", "RGB")):
        grey = mini.image(f"IMAGES/{stem}.png", mode)
        samples[f"IMAGES/{stem}.png"] = Sample(one(grey), patient=stem.split("_")[0])
        never.append(f"ARRAY_FORMAT/{stem}.npy")
        array = np.array({"image": grey, "trap": Trap(mini.root / UNPICKLED)}, dtype=object)
        np.save(mini.place(never[-1]), array, allow_pickle=True)
    return Expectation(samples, tuple(never), archives=(Archive(f"{name}.zip"),))


@miniature("fast-u-net")
def fast_u_net(mini: Mini) -> Expectation:
    samples, never = {}, []
    lists: dict[str, list[str]] = {}
    for plane, part, name, split, patient in (
        ("AC", 1, "0039", "train", ""), ("AC", 2, "fa_0040", "val", ""),
        ("HC", 1, "000_HC", "train", "000"), ("HC", 2, "000_2HC", "val", "000"), ("HC", 3, "805_HC", "train", "805"),
    ):  # fmt: skip
        # The archives are given unpacked here, each into a folder of its name, as they appear when read in place.
        member = f"Dataset/{plane}/{plane}_image{part}/image/{name}.png"
        mask = f"Dataset/{plane}/{plane}_mask/mask/{name}{'_Annotation' if plane == 'HC' else ''}.png"
        never.append(mini.mask(mask, "1" if name.startswith("fa_") else "L"))
        label = "abdominal circumference" if plane == "AC" else "head circumference"
        samples[member] = Sample(
            one(mini.image(member)),
            {"plane": label},
            patient,
            split=split,
            mask=mask if plane == "AC" else "",
        )
        lists.setdefault(f"Dataset/{plane}/{split}.txt", []).append(
            f"resized_data/image/{name}.png resized_data/mask/{mask.rsplit('/', 1)[-1]}\n"
        )
    for path, lines in lists.items():
        mini.text(path, "".join(lines) + "\n\n")
    for plane in ("AC", "HC"):
        mini.text(f"Dataset/{plane}/data", " ")
    samples["test_data/image/1576.jpg"] = Sample(one(mini.image("test_data/image/1576.jpg")))
    never.append(mini.mask("test_data/mask/1576.jpg"))
    mini.image("Fast_unet/000.jpg", "RGB")
    never.append("Fast_unet/000.jpg")
    mini.bytes("Fast_unet.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 64)
    archives = tuple(
        Archive(f"{folder}.rar", folder)
        for folder in sorted(
            {"/".join(path.split("/")[:3]) for path in (*samples, *never) if path[:7] == "Dataset"}
        )
    )
    return Expectation(samples, tuple(never), dict.fromkeys(lists, ""), archives)


@miniature("stu-hospital")
def stu_hospital(mini: Mini) -> Expectation:
    samples, never = {}, []
    for number in (1, 2, 42):
        member = f"Hospital/Test_Image_{number}.png"
        mask = mini.mask(f"Hospital/mask_{number}.png")
        samples[member] = Sample(one(mini.image(member, "RGB")), mask=mask)
        never.append(mask)
    mini.text("README.md")
    top = "STU-Hospital-ba4a898d6c42fdfb5aa2b122742fd4cf6195349b"
    return Expectation(samples, tuple(never), archives=(Archive(f"{top}.zip", prefix=top),))
