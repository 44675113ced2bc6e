"""Miniatures of the sources 1 to 11."""

from __future__ import annotations

import numpy as np

from tests.sources.miniature import Archive, Expectation, Mini, Sample, blob, miniature, one, some


@miniature("105us")
def us105(mini: Mini) -> Expectation:
    samples, never = {}, []
    for number in ("001", "002", "105"):
        path = f"105US/105 US Images/{number}.png"
        mask = mini.mask(f"105US/105 US Masks/{number} G man.png")
        samples[f"105 US Images/{number}.png"] = Sample(
            one(mini.image(path, "RGB")), {"finding": "liver metastasis"}, mask=mask
        )
        never.append(mask)
    mini.text("105US/105 US Images/readme.txt")
    archives = (
        Archive("105USImages.zip", "105US/105 US Images", "105 US Images"),
        Archive("105USMasks.zip", "105US/105 US Masks", "105 US Masks"),
    )
    return Expectation(samples, tuple(never), archives=archives)


@miniature("abdomenus")
def abdomenus(mini: Mini) -> Expectation:
    top = "abdominal_US/abdominal_US"
    samples, never = {}, []
    for domain, part, name in (
        ("AUS", "train", "ct_ircad_01.jpg"), ("AUS", "test", "ct_5.jpg"),
        ("RUS", "train", "img_7.jpg"), ("RUS", "test", "img_8.png"),
    ):  # fmt: skip
        member = f"{domain}/images/{part}/{name}"
        sample = Sample(
            one(mini.image(f"{top}/{member}", "RGB")),
            {"domain": "simulated" if domain == "AUS" else "real"},
            split=part,
        )
        if (domain, part) != ("RUS", "train"):  # real training scans have no annotation
            mask = f"{top}/{domain}/annotations/{part}/{name.rsplit('.', 1)[0]}.png"
            sample.mask = mini.mask(mask, colour=(100, 0, 100))
            never.append(mask)
        samples[member] = sample
    return Expectation(samples, tuple(never), archives=(Archive("ussimandsegm.zip"),))


@miniature("acouslic")
def acouslic(mini: Mini) -> Expectation:
    top = "acouslic-ai-train-set"
    table = f"{top}/circumferences/fetal_abdominal_circumferences_per_sweep.csv"
    samples, never, rows = {}, [], []
    for name, subject in (
        ("0199616b-bdeb-4119-97a3-a5a3571bd641", "s1"),
        ("aa99616b-0000-4119-97a3-a5a3571bd642", "s1"),
    ):
        member = f"stacked_fetal_ultrasound/{name}.mha"
        frames = mini.frames(member, 72)
        mini.itk(f"{top}/images/{member}", np.stack(frames), compress=True)
        mask = f"{top}/masks/stacked_fetal_abdomen/{name}.mha"
        mini.itk(mask, np.stack([blob(f"{name}{i}", value=1 + i % 2) for i in range(72)]), compress=True)
        samples[member] = Sample(some(frames, 0, 35, 70), patient=subject, mask=mask)
        never.append(mask)
        rows.append({"uuid": name, "subject_id": subject, "sweep_1_ac_mm": "231.5", "sweep_2_ac_mm": ""})
    mini.table(table, rows)
    return Expectation(
        samples, tuple(never), {table: "subject_id"}, (Archive("acouslic-ai-train-set.zip", top),)
    )


@miniature("aul")
def aul(mini: Mini) -> Expectation:
    samples, never = {}, []
    for folder in ("Benign", "Malignant", "Normal"):
        for number in ("1", "306"):
            member = f"{folder}/image/{number}.jpg"
            grey = mini.image(member, "RGB" if number == "1" else "L")
            samples[member] = Sample(
                one(grey), {"pathology": folder.lower()}, patient=f"{folder}/image/{number}"
            )
            for part in ("liver", "outline") if folder == "Normal" else ("liver", "mass", "outline"):
                never.append(f"{folder}/segmentation/{part}/{number}.json")
                mini.json(never[-1], [[1.0, 2.0], [30.5, 2.0], [30.5, 20.0]])
        mini.bytes(f"__MACOSX/{folder}/image/._1.jpg", b"\0\5\26\7" + b"\0" * 60)
    archives = tuple(Archive(f"{name}.zip", name, name) for name in ("Benign", "Malignant", "Normal"))
    return Expectation(samples, tuple(never), archives=archives)


@miniature("bp")
def bp(mini: Mini) -> Expectation:
    top = "ultrasound-nerve-segmentation"
    samples, never, rows = {}, [], []
    for name, subject in (("1_1", "1"), ("1_2", "1"), ("33_77", "33")):
        mask = mini.mask(f"{top}/train/{name}_mask.tif", empty=name == "1_2")
        samples[f"train/{name}.tif"] = Sample(
            one(mini.image(f"{top}/train/{name}.tif")), patient=subject, split="train", mask=mask
        )
        never.append(mask)
        rows.append({"subject": subject, "img": name.split("_")[1], "pixels": "" if name == "1_2" else "1 5"})
    for name in ("9", "99"):
        picture = one(mini.image(f"{top}/test/{name}.tif"))
        samples[f"test/{name}.tif"] = Sample(picture, split="test", repeat=name == "9")
    # The organisers warn of identical frames: of these two the one whose patient is known stays.
    repeated = mini.image(f"{top}/train/9_9.tif", like=f"{top}/test/9.tif")
    mask = mini.mask(f"{top}/train/9_9_mask.tif")
    samples["train/9_9.tif"] = Sample(one(repeated), patient="9", split="train", mask=mask)
    never.append(mask)
    mini.table(f"{top}/train_masks.csv", rows)
    mini.text(f"{top}/sample_submission.csv", "img,pixels\n9,1 1\n")
    return Expectation(samples, tuple(never), archives=(Archive(f"{top}.zip", top),))


@miniature("brachial-plexus")
def brachial_plexus(mini: Mini) -> Expectation:
    samples, never = {}, []
    for device, name in (("Butterfly", "b240"), ("Sonosite", "s071"), ("eSaote", "1032")):
        member = f"data/{device}/videos/{name}.mp4"
        samples[member] = Sample(some(mini.clip(member, 4)), {"device": device}, patient=name)
        never += [mini.mask(f"data/{device}/ac_masks/{name}/{name}_{frame:03d}.jpg") for frame in range(2)]
        mini.text(f"data/{device}/bb_annotations/{name}.txt", "0 1 2 3 4\n")
    never.append(mini.mask("data/Sonosite/needle/needle_masks/s071/s071_001.jpg"))
    mini.text("data/Sonosite/needle/needle_masks/readme.md")
    mini.text("data/Sonosite/needle/needle_coordinates/s071.txt", '{"1": {"start": [1, 2], "stop": [3, 4]}}')
    mini.clip("data/demo/P_021_09.mp4", 3)
    never.append("data/demo/P_021_09.mp4")
    never.append(mini.mask("data/demo/P_021_09_masks/P_021_09_000.jpg"))
    mini.image("other/high_gain.gif", "P")
    never.append("other/high_gain.gif")
    mini.bytes("Manuscript_v2_wo_names.pdf", b"%PDF-1.4\n")
    mini.text("README.md")
    name = "brachial_plexus-ac4bf778db01cc81338773485e59a8ac254f665c"
    return Expectation(samples, tuple(never), archives=(Archive(f"{name}.zip", prefix=name),))


@miniature("breast")
def breast(mini: Mini) -> Expectation:
    folder, table = "BrEaST-Lesions_USG-images_and_masks", "BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx"
    samples, never, rows = {}, [], []
    cases = (("001", "benign", "3"), ("002", "malignant", "4a"), ("045", "normal", "1"))
    for number, pathology, birads in cases:
        name = f"case{number}"
        sample = Sample(
            one(mini.image(f"{folder}/{name}.png", "RGBA")),
            {
                "pathology": pathology,
                "birads": birads,
                "diagnosis": "cyst" if number == "001" else "not applicable",
            },
            patient=number,
        )
        if pathology != "normal":
            sample.mask = mini.mask(f"{folder}/{name}_tumor.png")
            never.append(sample.mask)
        samples[f"{name}.png"] = sample
        rows.append(
            {
                "CaseID": int(number), "Image_filename": f"{name}.png",
                "Mask_tumor_filename": f"{name}_tumor.png" if sample.mask else "",
                "Mask_other_filename": "case001_other1.png&case001_other2.png" if number == "001" else "",
                "Pixel_size": 0.007, "BIRADS": int(birads) if birads.isdigit() else birads,
                "Diagnosis": sample.labels["diagnosis"], "Classification": pathology,
            }
        )  # fmt: skip
    never += [mini.mask(f"{folder}/case001_other{n}.png") for n in (1, 2)]
    mini.sheet(table, rows, "BrEaST-Lesions-USG clinical dat")
    archive = Archive(f"{folder}-Dec-15-2023.zip", folder, folder)
    return Expectation(samples, tuple(never), {table: "Classification"}, (archive,))


@miniature("bus-dataset-b")
def bus_dataset_b(mini: Mini) -> Expectation:
    samples, never, rows = {}, [], []
    for number, kind in ((1, "Benign"), (53, "Malignant"), (163, "Benign")):
        name = f"{number:06d}.png"
        mask = mini.mask(f"BUS/GT/{name}")
        samples[f"original/{name}"] = Sample(
            one(mini.image(f"BUS/original/{name}", "RGB")), {"pathology": kind.lower()}, mask=mask
        )
        never.append(mask)
        rows.append({"Image": number, "Type": kind, "Diagnosis": "CYST"})
    mini.sheet("BUS/DatasetB.xlsx", rows)
    return Expectation(samples, tuple(never), {"BUS/DatasetB.xlsx": "Type"}, (Archive("BUS.zip"),))


@miniature("bus-uc")
def bus_uc(mini: Mini) -> Expectation:
    samples, never = {}, []
    for folder, numbers in (("Benign", ("01", "010")), ("Malignant", ("01", "0319"))):
        for number in numbers:
            member = f"{folder}/images/{number}.png"
            mask = mini.mask(f"BUS_UC/{folder}/masks/{number}.png")
            samples[member] = Sample(
                one(mini.image(f"BUS_UC/{member}", "RGB")), {"pathology": folder.lower()}, mask=mask
            )
            # The folder All repeats both; under new names, since 01 stands in both classes.
            repeat = f"BUS_UC/All/images/{folder[0]}{number}.png"
            mini.image(repeat, "RGB", like=f"BUS_UC/{member}")
            never += [mask, repeat, mini.mask(f"BUS_UC/All/masks/{folder[0]}{number}.png")]
    return Expectation(samples, tuple(never), archives=(Archive("3ksd7w7jkx-1.zip"),))


@miniature("bus-ucml")
def bus_ucml(mini: Mini) -> Expectation:
    top = "BUS-UCLM Breast ultrasound lesion segmentation dataset/BUS-UCLM"
    samples, never, rows = {}, [], []
    colours = {"Benign": (0, 255, 0), "Malignant": (255, 0, 0), "Normal": (0, 0, 0)}
    for name, label, split in (
        ("ALWI_000", "Normal", "train"), ("ALWI_001", "Benign", "train"), ("COPE_000", "Malignant", "test"),
    ):  # fmt: skip
        mask = mini.mask(f"{top}/masks/{name}.png", colour=colours[label])
        facts = {"doppler": "1" if name == "ALWI_001" else "0", "marks": "0", "combined": "0"}
        samples[f"images/{name}.png"] = Sample(
            one(mini.image(f"{top}/images/{name}.png", "RGB")),
            {"pathology": label.lower(), **facts}, patient=name[:4], split=split, mask=mask,
        )  # fmt: skip
        never.append(mask)
        rows.append(
            {"Image": f"{name}.png", "Resolution": "64x48", "Label": label}
            | {key.capitalize(): value for key, value in facts.items()}
        )
    mini.table(f"{top}/INFO.csv", rows, sep=";")
    return Expectation(samples, tuple(never), {f"{top}/INFO.csv": "Label"}, (Archive("7fvgj4jsp7-1.zip"),))
