"""Miniatures of the sources 35 to 46 but 44, as their dossiers describe them."""

from __future__ import annotations

import base64
import io
import json
import zipfile

import av
import numpy as np
from PIL import Image

from tests.sources.miniature import (
    Archive,
    Expectation,
    Mini,
    Pixels,
    Sample,
    blob,
    miniature,
    one,
    some,
    texture,
)


@miniature("pocus")
def pocus(mini: Mini) -> Expectation:
    samples = {}
    columns = ("Date added", "Current location", "Filename", "Label", "Lung Severity Score", "License")
    rows = []

    def row(stem: str, severity: str, patient: str) -> None:
        values = dict(zip(columns, ("0", "data", stem, "x", severity, "CC BY-NC 4.0"), strict=True))
        rows.append({**values, "Patient ID / Name": patient, "": ""})

    def add(
        member: str, pixels: dict[int, Pixels], finding: str, severity: str = "", patient: str = ""
    ) -> None:
        labels = {"finding": finding, "probe": "linear" if "linear" in member else "convex"}
        if severity:
            labels["severity"] = severity
        samples[member] = Sample(pixels, labels, patient, clip=member)

    videos = "data/pocus_videos"
    path = f"{videos}/convex/Cov-Atlas+(44).gif"
    add(path, some(_gif(mini, path, 10), 0, 3, 6, 9), "covid-19", "2", "36")
    row("Cov-Atlas+(44)", "2", "36")
    path = f"{videos}/convex/pneu-everyday.gif"
    add(path, some(_gif(mini, path, 4), 0, 3), "bacterial pneumonia")
    path = f"{videos}/convex/Reg-NormalLungs.mp4"
    add(path, some(mini.clip(path, 7), 0, 3, 6), "regular", "0", "pat1")
    row("Reg-NormalLungs", "0", "pat1")
    path = f"{videos}/linear/Vir_prospective_file1.mp4"
    add(path, some(mini.clip(path, 5), 0, 3), "viral pneumonia")
    path = f"{videos}/linear/Cov_bolzano_Linee B 5.mpeg"
    add(path, some(_mpeg(mini, path, 5), 0, 3), "covid-19")
    path = f"{videos}/linear/label_uncertain/Vir_or_Pneu_prospective_file4.mp4"
    add(path, some(mini.clip(path, 4), 0, 3), "uncertain")
    images = "data/pocus_images"
    for name, mode, finding in (
        ("convex/Pneu-grep-pneumonia.JPG", "RGB", "bacterial pneumonia"),
        ("linear/Reg_pat1Image_1.png", "RGBA", "regular"),
    ):
        add(f"{images}/{name}", one(mini.image(f"{images}/{name}", mode)), finding)
    mini.table("data/dataset_metadata.csv", rows)
    never = ("data/ct/covid/1.png", "data/data_with_artifacts/Cov-drawn.png", "backend/test/convex.png")
    for path in never:
        mini.image(path)
    # Frames of the first gif as an old revision kept them.
    mini.image(f"{images}/Convex/covid/Cov-Atlas+(44).gif_frame18.jpg")
    return Expectation(
        samples,
        (*never, f"{images}/Convex/covid/Cov-Atlas+(44).gif_frame18.jpg"),
        tables={"data/dataset_metadata.csv": "Patient ID / Name"},
        archives=(Archive("covid19_ultrasound-master.zip", prefix="covid19_ultrasound-master"),),
    )


def _gif(mini: Mini, path: str, count: int) -> list[Pixels]:
    frames = mini.frames(path, count)
    first, *rest = (Image.fromarray(grey) for grey in frames)
    out = io.BytesIO()
    first.save(out, "GIF", save_all=True, append_images=rest, duration=100)
    mini.root.joinpath(path).parent.mkdir(parents=True, exist_ok=True)
    mini.bytes(path, out.getvalue())
    return frames


def _mpeg(mini: Mini, path: str, count: int) -> list[Pixels]:
    frames = mini.frames(path, count)
    mini.text(path)
    with av.open(str(mini.root / path), "w", format="mpeg") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames[0].shape
        stream.pix_fmt = "yuv420p"
        stream.options = {"qscale": "1", "g": "1"}
        for grey in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.dstack([grey] * 3), format="rgb24")))
        container.mux(stream.encode())
    return frames


@miniature("porcine")
def porcine(mini: Mini) -> Expectation:
    samples, never = {}, []
    segmentation, detection = "SegmentationDataset", "Final dataset for object detection"
    for part, number in (("train", "A0004"), ("val", "A0017"), ("test", "A0139")):
        stem = f"predict4_scaled-{number}_frame1"
        clip = f"predict4_scaled-{number}"
        path = f"{segmentation}/{part}_images/{stem}.png"
        mask = mini.mask(f"{segmentation}/{part}_masks/{stem}.png", "RGB", (128, 0, 0))
        never.append(mask)
        grey = mini.image(path, "RGB", (69, 28))
        samples[path] = Sample(one(grey), {"part": "segmentation"}, clip=clip, split=part, mask=mask)
        # Detection images repeat segmentation images; "Final …" sorts first, so the others are the repetitions.
        repeated = f"{detection}/{part}/{stem}.png"
        grey = mini.image(repeated, "RGB", (69, 28), like=path)
        mini.text(f"{detection}/{part}/{stem}.xml", "<annotation/>\n")
        samples[repeated] = Sample(one(grey), {"part": "detection"}, clip=clip, split=part)
        samples[path].repeat = True
    return Expectation(
        samples,
        tuple(never),
        archives=(
            Archive("SegmentationDataset.zip", segmentation),
            Archive("DetectionDataset.zip", detection, detection),
        ),
    )


@miniature("regpro")
def regpro(mini: Mini) -> Expectation:
    samples, never = {}, []
    for part, case in (("train", "case000000"), ("train", "case000064"), ("val", "case000070")):
        member = f"{part}/us_images/{case}.nii.gz"
        # Slices across the first NIfTI axis, [y, z] each; both axes run backwards in the file.
        slices = [texture(f"regpro/{member}#{x}", 44, 59) for x in range(4)]
        stored = np.stack([np.zeros((59, 44), np.uint8), *(grey[::-1, ::-1] for grey in slices)])
        mini.nifti(member, stored.T)
        samples[member] = Sample(
            {x + 1: grey for x, grey in enumerate(slices)}, patient=case.removeprefix("case"), split=part
        )
        for folder in ("us_labels", "mr_images", "mr_labels"):
            path = f"{part}/{folder}/{case}.nii.gz"
            mini.nifti(path, np.stack([texture(f"{path}#{x}", 44, 59) for x in range(4)]).T)
            never.append(path)
    return Expectation(
        samples,
        tuple(never),
        archives=(Archive("train.zip", "train", "train"), Archive("val.zip", "val", "val")),
    )


@miniature("s1")
def s1(mini: Mini) -> Expectation:
    top = "pone.0253202.s001"
    samples, never = {}, []

    def pair(images: str, masks: str, n: int, split: str) -> None:
        member = f"{images}/{n}.jpg"
        mask = mini.mask(f"{top}/Data/{masks}/{n}.png")
        never.append(mask)
        samples[member] = Sample(one(mini.image(f"{top}/Data/{member}", "RGB")), split=split, mask=mask)

    train, test = "TrainingDataSet", "TestingDataSet"
    for n in (1, 2, 178):
        pair(f"{train}/BreastTumourImages", f"{train}/Expanded-3-channel-Labels", n, "train")
        never.append(mini.mask(f"{top}/Data/{train}/General-1-channel-Labels/{n}.png"))
    for n in (1, 2):
        pair(f"{test}/Test-Expanded-BreastTumourImages", f"{test}/Test-Expanded-3-channel-Labels", n, "test")
        origin = f"{top}/Data/{test}/Test-Expanded-BreastTumourImages/{n}.jpg"
        mini.image(f"{top}/Data/{test}/Test-General-1-BreastTumourImages/{n}.jpg", "RGB", like=origin)
        never.append(mini.mask(f"{top}/Data/{test}/Test-General-1-channel-Labels/{n}.png"))
        never.append(mini.mask(f"{top}/Data/Segmentation_Results/BreastTumourImages/{n}.jpg"))
    mini.text(f"{top}/Code/Architecture_and_Training_Model_of_Expanded_U-Net/train.py", "# code\n")
    return Expectation(samples, tuple(never), archives=(Archive(f"{top}.zip", top, top),))


@miniature("segthy")
def segthy(mini: Mini) -> Expectation:
    samples, never = {}, []
    for stem in ("001_P1_1_left", "028_P3_2_right"):
        member = f"ground_truth_data/US/{stem}_US.nii"
        slices = mini.frames(member, 6)
        # Every second slice is taken; the sweep's first ones are empty, and all stand on their heads.
        stored = np.stack([np.zeros_like(slices[0])] * 2 + [grey[::-1, ::-1] for grey in slices])
        mini.nifti(f"US_volunteer_dataset/{member}", stored)
        label = f"US_volunteer_dataset/ground_truth_data/US_thyroid_label/{stem}.nii"
        mini.nifti(label, (stored > 100).astype(np.uint8))
        never.append(label)
        side = {"side": stem.rsplit("_", 1)[1]}
        samples[member] = Sample({2: slices[0], 4: slices[2], 6: slices[4]}, side, stem[:3])
    return Expectation(samples, tuple(never), archives=(Archive("US_data.zip"),))


@miniature("stmus-nda")
def stmus_nda(mini: Mini) -> Expectation:
    top = "Polito-Radboud-DeepLearningUS"
    muscles = {"BB": "biceps brachii", "GM": "gastrocnemius medialis", "TA": "tibialis anterior"}
    samples, never = {}, []
    for muscle, name in muscles.items():
        for condition in ("Healthy", "Pathological"):
            # Stems repeat between muscles and conditions; one mask is empty.
            member = f"{muscle}/{condition}/Images/12.png"
            mask = mini.mask(f"{top}/{muscle}/{condition}/Masks/12.png", empty=muscle == "TA")
            never.append(mask)
            labels = {"muscle": name, "condition": condition.lower()}
            samples[member] = Sample(one(mini.image(f"{top}/{member}")), labels, mask=mask)
    copy = f"{top}/Segmentation_models/data/MuscleCNN"
    for stem, part in (("12", "train"), ("20", "train"), ("21", "val"), ("22", "test")):
        member = f"BB/Healthy/Images/{stem}.png"
        if stem != "12":  # the others are names of one image
            mask = mini.mask(f"{top}/BB/Healthy/Masks/{stem}.png")
            labels = {"muscle": muscles["BB"], "condition": "healthy"}
            samples[member] = Sample(one(mini.image(f"{top}/{member}")), labels, split=part, mask=mask)
            never.append(mask)
        mini.image(f"{copy}/{part}/{stem}.png", like=f"{top}/{member}")
        never.append(mini.mask(f"{copy}/{part}annot/{stem}.png"))
    # Even a copy with the folder names of the original stays out.
    mini.image(f"{copy}/BB/Healthy/Images/12.png", like=f"{top}/BB/Healthy/Images/12.png")
    mini.text(f"{top}/readme.txt")
    return Expectation(
        samples, tuple(never), archives=(Archive("DATASET_10.1016j.compbiomed.2021.104623.zip", top, top),)
    )


@miniature("thyroid-dataset")
def thyroid_dataset(mini: Mini) -> Expectation:
    top = "Thyroid Dataset"
    samples, never = {}, []
    malignancy = {"trainval": ("benign", "malignant", "benign"), "test": ("malignant", "benign")}
    for part, classes in malignancy.items():
        lines = []
        for n, name in enumerate(classes):
            member = f"tn3k/{part}-image/{n:04d}.jpg"
            mask = mini.mask(f"{top}/tn3k/{part}-mask/{n:04d}.jpg")
            never.append(mask)
            grey = mini.image(f"{top}/{member}", "RGB")
            labels = {"part": "tn3k", "malignancy": name}
            samples[member] = Sample(one(grey), labels, split=part, mask=mask)
            lines.append(f"{n:04d}.jpg,{int(name == 'malignant')}\n")
        mini.text(f"{top}/tn3k/label4{part}.csv", "".join(lines))
    mini.json(f"{top}/tn3k/tn3k-trainval-fold0.json", {"train": [0, 1], "val": [2]})
    for n in range(2):
        member = f"tg3k/thyroid-image/{n:04d}.jpg"
        mask = mini.mask(f"{top}/tg3k/thyroid-mask/{n:04d}.jpg")
        never.append(mask)
        samples[member] = Sample(one(mini.image(f"{top}/{member}", "RGB")), {"part": "tg3k"}, mask=mask)
    ddti = _ddti(mini, f"{top}/DDTI dataset/DDTI.zip")
    for name, grey in ddti.items():
        samples[f"DDTI dataset/DDTI/{name}"] = Sample(one(grey), {"part": "ddti"})
    return Expectation(samples, tuple(never), archives=(Archive("Thyroid Dataset.zip", top, top),))


def _ddti(mini: Mini, path: str) -> dict[str, Pixels]:
    """The nested archive: raw images and masks, and the same images once more, cropped."""
    kept = {f"1_or_data/image/{n:04d}.PNG": texture(f"ddti/{n}") for n in (1, 2)}
    others = {
        "1_or_data/mask/0001.PNG": blob("ddti/1"),
        "2_preprocessed_data/stage1/p_image/0001.PNG": texture("ddti/1")[4:-4, 6:-6],
        "2_preprocessed_data/stage1/p_mask/0001.PNG": blob("ddti/1")[4:-4, 6:-6],
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, grey in (kept | others).items():
            picture = io.BytesIO()
            Image.fromarray(grey).save(picture, "PNG")
            archive.writestr(name, picture.getvalue())
        archive.writestr("1_or_data/category.csv", "ID,CATE\n1,1\n")
    mini.text(path)
    mini.bytes(path, out.getvalue())
    return kept


@miniature("ultrasound-fetus-dataset")
def ultrasound_fetus_dataset(mini: Mini) -> Expectation:
    top = "Ultrasound Fetus Dataset/Ultrasound Fetus Dataset/Data/Data"
    samples, never = {}, []
    for part, split in (("train", "train"), ("test", "test"), ("validation", "val")):
        for group in ("benign", "malignant", "normal"):
            member = f"{part}/{group}/000_HC.png"
            # The test images of HC18 stand under two classes at once.
            like = f"{top}/{part}/benign/000_HC.png" if group == "normal" else ""
            grey = mini.image(f"{top}/{member}", like=like)
            samples[member] = Sample(one(grey), {"class": group}, split=split, repeat=group == "normal")
        never.append(mini.mask(f"{top}/{part}/malignant/000_HC_Annotation.png"))
    never += [f"{top}/Datasets/benign/000_HC.png", f"{top}/Datasets/train/benign/000_HC.png"]
    for path in never[-2:]:
        mini.image(path)
    return Expectation(samples, tuple(never), archives=(Archive("archive.zip"),))


@miniature("upbd")
def upbd(mini: Mini) -> Expectation:
    samples = {}
    for number, stem in enumerate(("12_0", "12_10", "100_101", "7_1_0")):
        member = f"JPEGImages/{stem}.jpg"
        samples[member] = Sample(one(mini.image(member, "RGB")), patient=stem.split("_")[0])
        # The picture inside the JSON carries the doctors' outlines.
        drawn = io.BytesIO()
        Image.fromarray(texture(f"upbd/{stem}/drawn")).convert("RGB").save(drawn, "JPEG")
        value = {
            "shapes": [{"label": "shenjing", "points": [[1, 2], [3, 4], [5, 6]]}],
            "imagePath": f"..\\JPEGImages\\{stem}.jpg",
            "imageData": base64.b64encode(drawn.getvalue()).decode(),
            "comment": "神经",
        }
        text = json.dumps(value, ensure_ascii=False)
        path = f"json_train/{stem}.json"
        mini.text(path)
        mini.bytes(path, text.encode("gbk" if number == 0 else "utf-8"))
    return Expectation(samples, archives=(Archive("UBPD.zip"),))
