"""Miniatures of the sources 24 to 34, as their dossiers describe them."""

from __future__ import annotations

import json

import numpy as np

from tests.sources.miniature import (
    Archive,
    Expectation,
    Mini,
    Sample,
    miniature,
    one,
    some,
)


@miniature("feft")
def feft(mini: Mini) -> Expectation:
    samples = {}
    planes = {
        "Aorta": "aorta",
        "Flows": "atrioventricular flows",
        "Other": "other",
        "V sign": "three vessels",
        "X sign": "great vessels crossing",
    }
    for folder, split, numbers in (
        ("train", "train", (1, 2)),
        ("valid", "val", (472,)),
        ("test", "test", (79,)),
    ):
        for plane, name in planes.items():
            for n in numbers:
                path = f"{folder}/{plane}/{plane} {folder} ({n}).jpg"
                samples[path] = Sample(one(mini.image(path, "RGB")), {"plane": name}, split=split)
    return Expectation(samples, archives=(Archive("21215492.zip"),))


@miniature("fetal-planes-db")
def fetal_planes_db(mini: Mini) -> Expectation:
    facts = [
        ("Patient00001_Plane1_1_of_1", 1, "Other", "Not A Brain", "Voluson E6", 1),
        ("Patient00002_Plane2_1_of_2", 2, "Fetal brain", "Trans-thalamic", "Voluson E6", 0),
        ("Patient00002_Plane2_2_of_2", 2, "Fetal brain", "Other", "Other", 0),
        ("Patient00003_Plane3_1_of_1", 3, "Maternal cervix", "Not A Brain", "Aloka", 1),
    ]
    samples, rows = {}, []
    for stem, patient, plane, brain, machine, train in facts:
        path = f"Images/{stem}.png"
        labels = {"plane": plane.lower(), "brain-plane": brain.lower(), "device": machine}
        samples[path] = Sample(
            one(mini.image(path, "RGBA")), labels, f"{patient:05d}", split="train" if train else "test"
        )
        rows.append(
            {
                "Image_name": stem,
                "Patient_num": patient,
                "Plane": plane,
                "Brain_plane": brain,
                "Operator": "Op. 1",
                "US_Machine": machine,
                "Train ": train,
            }
        )
    mini.table("FETAL_PLANES_DB_data.csv", rows, sep=";", bom=True)
    mini.sheet("FETAL_PLANES_DB_data.xlsx", rows)
    mini.text("README.md")
    return Expectation(
        samples,
        tables={"FETAL_PLANES_DB_data.csv": "Plane"},
        archives=(Archive("FETAL_PLANES_ZENODO.zip"),),
    )


@miniature("fh-ps-aop")
def fh_ps_aop(mini: Mini) -> Expectation:
    top = "Pubic Symphysis-Fetal Head Segmentation and Angle of Progression"
    return _planes(mini, f"{top}/", ("00001", "03744", "05101"), f"{top}.zip", top, split="train")


def _planes(
    mini: Mini, top: str, stems: tuple[str, ...], archive: str, inside: str, split: str = ""
) -> Expectation:
    samples, never = {}, []
    for stem in stems:
        # DimSize W H 3: three equal planes of one grey picture, which are not slices.
        grey = mini.frames(f"image_mha/{stem}.mha", 1)[0]
        mini.itk(f"{top}image_mha/{stem}.mha", np.stack([grey] * 3), compress=True)
        mask = f"{top}label_mha/{stem}.mha"
        mini.itk(mask, (grey > 120).astype(np.uint8) + (grey > 180).astype(np.uint8))
        never.append(mask)
        samples[f"image_mha/{stem}.mha"] = Sample(one(grey), split=split, mask=mask)
    return Expectation(samples, tuple(never), archives=(Archive(archive, inside=inside, prefix=inside),))


@miniature("psfhs")
def psfhs(mini: Mini) -> Expectation:
    expectation = _planes(mini, "PSFHS/", ("03744", "03745"), "PSFHS.zip", "PSFHS")
    # Whether all of its files hold planes is unknown, so one holds RGB pixels.
    import SimpleITK

    grey = mini.frames("image_mha/03746.mha", 1)[0]
    picture = SimpleITK.GetImageFromArray(np.dstack([grey] * 3), isVector=True)
    SimpleITK.WriteImage(picture, str(mini.root / "PSFHS/image_mha/03746.mha"))
    mini.itk("PSFHS/label_mha/03746.mha", (grey > 120).astype(np.uint8))
    expectation.samples["image_mha/03746.mha"] = Sample(one(grey), mask="PSFHS/label_mha/03746.mha")
    expectation.never = (*expectation.never, "PSFHS/label_mha/03746.mha")
    return expectation


@miniature("gist514-db")
def gist514_db(mini: Mini) -> Expectation:
    top = "usd514-db/usd514_jpeg_roi"
    names = [f"case{n:03d}.jpg" for n in range(10)]
    tumours = ["leiomyoma", "gist"] * 5
    samples = {}
    images, marks = [], []
    for n, (name, tumour) in enumerate(zip(names, tumours, strict=True)):
        grey = mini.image(f"{top}/images/{name}", "RGB")
        mini.image(f"usd514-db/usd514_jpeg_raw/images/{name}", "RGB", (80, 60))
        labels = {"tumour": tumour, "location": str(n % 7)}
        drawn = np.zeros((48, 64), np.uint8)
        drawn[8:29, 10:41] = 255
        samples[f"images/{name}"] = Sample(one(grey), labels, split=f"fold{n % 5}", drawn=drawn)
        images.append({"id": 100 + n, "file_name": name, "width": 64, "height": 48, "anatomy_id": n % 7})
        marks.append(
            {
                "id": n,
                "image_id": 100 + n,
                "category_id": 1 + (tumour == "gist"),
                "bbox": [10, 8, 30, 20],
                "area": 600,
                "iscrowd": 0,
                "segmentation": [[10, 8, 40, 8, 40, 28, 10, 28]],
            }
        )
    categories = [{"id": 1, "name": "lmym"}, {"id": 2, "name": "GIST"}]

    def coco(name: str, numbers: list[int]) -> None:
        chosen = {"images": [images[n] for n in numbers], "annotations": [marks[n] for n in numbers]}
        mini.json(f"{top}/annotations/{name}", {**chosen, "categories": categories})

    coco("all_anno_crop.json", list(range(10)))
    for fold in range(5):
        coco(f"val_anno_crop_split_{fold}.json", [n for n in range(10) if n % 5 == fold])
        coco(f"train_anno_crop_split_{fold}.json", [n for n in range(10) if n % 5 != fold])
    raw = tuple(f"usd514-db/usd514_jpeg_raw/images/{name}" for name in names)
    return Expectation(
        samples,
        raw,
        tables={f"{top}/annotations/val_anno_crop_split_3.json": ""},
        archives=(Archive("GIST514-DB.zip"),),
    )


@miniature("hc")
def hc(mini: Mini) -> Expectation:
    samples, never, rows = {}, [], []
    for n, name in enumerate(("000_HC", "010_HC", "010_2HC", "805_HC")):
        path = f"training_set/{name}.png"
        labels = {"head-circumference-mm": f"{44.3 + n}"}
        samples[path] = Sample(one(mini.image(path)), labels, f"training_set/{name[:3]}", split="train")
        never.append(mini.mask(f"training_set/{name}_Annotation.png"))
        rows.append(
            {
                "filename": f"{name}.png",
                "pixel size(mm)": 0.0691,
                "head circumference (mm)": labels["head-circumference-mm"],
            }
        )
    for name in ("000_HC", "001_HC"):
        path = f"test_set/{name}.png"
        samples[path] = Sample(one(mini.image(path)), patient=f"test_set/{name[:3]}", split="test")
    mini.table("training_set_pixel_size_and_HC.csv", rows)
    mini.table("test_set_pixel_size.csv", [{"filename": "000_HC.png", "pixel size(mm)": 0.2}])
    return Expectation(
        samples,
        tuple(never),
        tables={"training_set_pixel_size_and_HC.csv": "head circumference (mm)"},
        archives=(
            Archive("training_set.zip", inside="training_set", prefix="training_set"),
            Archive("test_set.zip", inside="test_set", prefix="test_set"),
        ),
    )


@miniature("jnu-ifm")
def jnu_ifm(mini: Mini) -> Expectation:
    names = {"3": "none", "4": "only symphysis", "5": "only head", "6": "symphysis and head"}
    samples, never = {}, []
    videos = {"20190909T155747": {0: "3", 12: "6", 105: "5"}, "20190916T104520": {7: "4", 8: "6"}}
    for number, (video, frames) in enumerate(videos.items()):
        for frame, code in frames.items():
            stem = f"{video}_{frame}"
            member = f"{video}/image/{stem}.png"
            grey = mini.image(f"us_data/{member}")
            mask = mini.mask(f"us_data/{video}/mask/{stem}_mask.png")
            never += [mask, mini.mask(f"us_data/{video}/mask_enhance/{stem}.png", "RGB", (255, 0, 0))]
            samples[member] = Sample(one(grey), {"structures": names[code]}, clip=video, mask=mask)
        rows = [{"frame_id": frame, "frame_label": code} for frame, code in frames.items()]
        mini.table(f"us_data/{video}/frame_label.csv", rows, bom=number == 0)
    return Expectation(
        samples,
        tuple(never),
        tables={"us_data/20190909T155747/frame_label.csv": "frame_label"},
        archives=(Archive("us_data.zip", inside="us_data", prefix="us_data", around="JNU-IFM.zip"),),
    )


@miniature("kidneyus")
def kidneyus(mini: Mini) -> Expectation:
    folder = "kidneyUS_images_14_june_2022/kidneyUS_images_14_june_2022"
    labels = "kidneyUS-becfa9a897df8a4735105a9969432608a206402e"
    facts = {
        "1_IM-0001-0059_anon.png": ("Transverse", "Fair", "fov too big"),
        "102_IM-0262-0009_anon.png": ("Longitudinal", "Fair", "transplant "),
        "404_IM-0500-0001_anon.png": ("Other", "Poor", "n/a"),
        "478_IM-0337-0008-0001_anon.png": ("Longitudinal", "Good", "ntransplant"),
    }
    copies = {"400_IM-0262-0009_anon.png": 102, "404_IM-0262-0009_anon.png": 102}
    samples, never, rows = {}, [], []
    for name, (view, quality, comment) in facts.items():
        grey = mini.image(f"{folder}/{name}", "RGB")
        mask = mini.mask(f"{labels}/labels/reviewed_masks_1/capsule/{name}")
        regions = (f"{labels}/labels/reviewed_masks_{k}/regions/{name}" for k in (1, 2))
        never += [mask, *(mini.mask(path) for path in regions)]
        kidney = "transplant" if "transplant" in comment else "native"
        known = {"view": view.lower(), "quality": quality.lower(), "kidney": kidney}
        samples[name] = Sample(one(grey), known, name.split("_")[0], mask=mask)
        attributes = {"Quality": quality, "View": view, "Comments": comment}
        for region in ("Capsule", "Cortex"):
            rows.append(
                {
                    "filename": name,
                    "file_size": 140645,
                    "file_attributes": json.dumps(attributes),
                    "region_count": 2,
                    "region_id": 0,
                    "region_shape_attributes": '{"name":"polygon","all_points_x":[1,2,3],"all_points_y":[1,2,3]}',
                    "region_attributes": json.dumps({"Anatomy": region}),
                }
            )
            # The second row of a file may differ; the first one counts.
            attributes = {**attributes, "View": "Other"}
    for name, origin in copies.items():
        mini.image(f"{folder}/{name}", "RGB", like=f"{folder}/{origin}_IM-0262-0009_anon.png")
    mini.table(f"{labels}/labels/reviewed_labels_1.csv", rows)
    mini.table(f"{labels}/labels/reviewed_labels_2.csv", rows)
    never.append(mini.mask(f"{labels}/kidneyUSlogo.png"))
    return Expectation(
        samples,
        tuple(never),
        archives=(
            Archive("kidneyUS_images_14_june_2022.zip", folder.split("/")[0], folder.split("/")[0]),
            Archive(f"{labels}.zip", labels, labels),
        ),
    )


@miniature("luss-phantom")
def luss_phantom(mini: Mini) -> Expectation:
    samples, never = {}, []
    for part, clip, frame in (("train", "clip-07", 1), ("train", "clip-07", 22), ("test", "A-line-3", 5)):
        member = f"{part}/images/{clip}-F{frame}.png"
        mask = mini.mask(f"data-3/{part}/masks/{clip}-F{frame}.png")
        never.append(mask)
        samples[member] = Sample(one(mini.image(f"data-3/{member}", "RGB")), clip=clip, split=part, mask=mask)
    mini.bytes("VideoClips/clip-07.webm", b"\x1aE\xdf\xa3")
    mini.bytes("data-3/model.h5", b"\x89HDF\r\n\x1a\n")
    mini.text("vidtoImage.m", "% frames of a clip\n")
    return Expectation(
        samples, (*never, "VideoClips/clip-07.webm"), archives=(Archive("LUS_model.zip", "data-3", "data-3"),)
    )


@miniature("microseg")
def microseg(mini: Mini) -> Expectation:
    top = "Micro_Ultrasound_Prostate_Segmentation_Dataset"
    samples, never = {}, []
    for split, annotators in (
        ("train", ("expert", "non_expert")),
        ("test", ("expert", "clinician", "master_student", "medical_student")),
    ):
        member = f"{split}/micro_ultrasound_scans/microUS_{split}_01.nii.gz"
        slices = mini.frames(member, 4)
        # Slices stand upside down in the file, and the last one is background.
        stored = np.stack([*(grey[::-1] for grey in slices), np.zeros_like(slices[0])])
        mini.nifti(f"{top}/{member}", stored)
        for annotator in annotators:
            path = f"{top}/{split}/{annotator}_annotations/{annotator}_annotation_{split}_01.nii.gz"
            mini.nifti(path, (stored > 100).astype(np.uint8))
            never.append(path)
        samples[member] = Sample(some(slices), patient=f"{split}_01", split=split)
    return Expectation(samples, tuple(never), archives=(Archive(f"{top}.zip", top, top),))


@miniature("mmotu-2d")
def mmotu_2d(mini: Mini) -> Expectation:
    known = {
        1: ("train", "simple cyst"),
        6: ("train", "chocolate cyst"),
        8: ("val", "chocolate cyst"),
        147: ("train", "theca cell tumour"),
        1427: ("val", "high-grade serous cystadenocarcinoma"),
        1469: ("val", "high-grade serous cystadenocarcinoma"),
    }
    samples, never = {}, []
    for n, (split, tumour) in known.items():
        grey = mini.image(f"OTU_2d/images/{n}.JPG", "RGB")
        mask = mini.mask(f"OTU_2d/annotations/{n}_binary.PNG")
        never += [mask, mini.mask(f"OTU_2d/annotations/{n}_binary_binary.PNG")]
        never.append(mini.mask(f"OTU_2d/annotations/{n}.PNG", "RGB", (64, 0, 0)))
        # The GitHub copy keeps every image a second time, sorted by class.
        mini.image(f"OTU_2d/8_layers/Class/images/{n}.JPG", "RGB", like=f"OTU_2d/images/{n}.JPG")
        samples[f"images/{n}.JPG"] = Sample(one(grey), {"tumour": tumour}, split=split, mask=mask)
    mini.image("OTU_3d/images/1.JPG", "RGB")
    mini.text("OTU_2d/train.txt", "1\n6\n147\n")
    mini.text("OTU_2d/train_cls.txt", "1.JPG  4\n6.JPG  0\n147.JPG  3\n")
    mini.text("OTU_2d/val_cls.txt", "8.JPG  0\n1427.JPG  7\n1469.JPG  7\n")
    return Expectation(samples, (*never, "OTU_3d/images/1.JPG"), archives=(Archive("MMOTU.zip"),))


@miniature("mmotu-3d")
def mmotu_3d(mini: Mini) -> Expectation:
    samples, never = {}, ["OTU_2d/images/1.JPG"]
    mini.image("OTU_2d/images/1.JPG", "RGB")
    for n in (1, 138, 170):
        member = f"OTU_3d/images/{n}.JPG"
        mask = mini.mask(f"OTU_3d/annotations/{n}_binary.PNG")
        never += [mask, mini.mask(f"OTU_3d/annotations/{n}.PNG", "RGB", (0, 64, 0))]
        split = {1: "train", 138: "val"}.get(n, "")
        samples[member] = Sample(one(mini.image(member, "RGB")), split=split, mask=mask)
    for folder, part, stems in (
        ("3d", "train", "1\n"),
        ("3d", "val", "138\n"),
        ("2d", "train", "138\n170\n"),
    ):
        mini.text(f"OTU_{folder}/{part}.txt", stems)
    return Expectation(samples, tuple(never), archives=(Archive("MMOTU.zip"),))
