"""Manifests: what the YAML that declares sources, corpora and benchmarks may say.

A *source* says what one public dataset is: where it comes from, which of its files are images, how its
frames, labels, patients and official splits are found, what its licence allows, and how many samples to
expect. A *corpus* names sources, held-out sets and the settings of cleaning, deduplication and packing.
A *benchmark* names a task on a held-out set. None of them holds code.

Selectors are glob patterns on the path of a file inside the dataset. They are matched from the right:
``lus_videos/*.mp4`` also matches ``COVID-BLUES-main/lus_videos/a.mp4``, so one more folder around a
dataset (an archive's top folder, a re-upload's nesting) changes nothing.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

SCHEMA = 1
PRETRAIN = "pretrain"  # the set of all sources that are not held out
SLUG = r"^[a-z0-9][a-z0-9-]*$"

Redistribution = Literal["pixels", "verbatim-only", "recipe-only"]
Access = Literal["open", "account", "registration", "request"]
Kind = Literal["image", "video", "volume"]
CleanLevel = Literal["none", "sector", "full"]
LEVELS: tuple[CleanLevel, ...] = ("none", "sector", "full")


def _text(value: Any) -> Any:
    """YAML reads ``1`` and ``2024`` as numbers; identifiers and class names are text."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _pattern(value: str) -> str:
    re.compile(value)
    return value


Text = Annotated[str, BeforeValidator(_text)]
Regex = Annotated[str, BeforeValidator(_pattern)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Licence(_Strict):
    """What a source's terms allow. An unknown licence means `recipe-only`."""

    name: str
    """SPDX identifier where there is one, else the wording of the source, else ``unknown``."""
    redistribution: Redistribution
    url: str | None = None
    note: str | None = None


class Citation(_Strict):
    title: str
    doi: str | None = None
    year: int | None = None


class RemoteSpec(_Strict):
    """One file of a route, with what is known of it beforehand."""

    name: str
    """File name in the cache; also how a person's download is recognised."""
    url: str | None = None
    bytes: int | None = None
    md5: str | None = None
    sha1: str | None = None
    sha256: str | None = None
    stable: bool = True
    """False where the host makes the archive on request, so that its bytes may change."""


class Route(_Strict):
    """One way to get a source. Routes are tried in order."""

    host: Literal[
        "github", "http", "zenodo", "figshare", "mendeley", "kaggle-dataset", "kaggle-competition", "google-drive",
        "girder", "tcia", "huggingface", "dataverse", "manual",
    ]  # fmt: skip
    id: str | None = None
    """The host's own identifier: record number, owner/name, folder id, collection."""
    revision: str | None = None
    """Commit, version or tag that pins the content."""
    url: str | None = None
    """The page a person would open."""
    access: Access = "open"
    files: tuple[RemoteSpec, ...] = ()
    include: tuple[str, ...] = ()
    """Glob patterns of the host's files to take, where the host lists more than needed."""
    steps: tuple[str, ...] = ()
    """What a person must do, in order (manual routes)."""
    note: str | None = None


class Rule(_Strict):
    """Where one value of a sample comes from: its path, a table that travels with the data, or a constant.

    - ``path``: a regular expression searched in the member's path; its group ``value`` is the value.
    - ``table``: a selector of a CSV, TSV, XLSX or JSON file of the dataset; the row whose column ``key``
      equals the group ``key`` of ``match`` (searched in the member's path) gives ``column``.
    - ``value``: the same for all samples.
    """

    path: Regex | None = None
    table: str | None = None
    match: Regex | None = None
    key: str | tuple[str, ...] | None = None
    """Key column(s); several are matched by the groups ``key0``, ``key1``, …"""
    column: str | int | None = None
    sep: str | None = None
    header: bool = True
    """False: the table has no header row; columns are named "0", "1", …"""
    sheet: str | None = None
    skip: int = 0
    """Rows to skip above the header."""
    value: Text | None = None
    classes: dict[Text, Text] | None = None
    """Raw value to class name. A value that is not listed is an error of the data, named as such."""
    open_classes: bool = False
    """Keep values that `classes` does not list as they are."""
    optional: bool = False
    """A member without a value gets none, instead of failing the source."""
    prefix: str = ""

    @model_validator(mode="after")
    def _one_origin(self) -> Rule:
        origins = [self.path is not None, self.table is not None, self.value is not None]
        if sum(origins) != 1:
            raise ValueError("a rule needs exactly one of 'path', 'table', 'value'")
        if self.path is not None and "(?P<value>" not in self.path:
            raise ValueError("'path' needs a group named 'value': (?P<value>…)")
        if self.table is not None and (self.key is None or self.match is None or self.column is None):
            raise ValueError("a table rule needs 'match', 'key' and 'column'")
        return self


class FramePolicy(_Strict):
    """Which frames of a clip, or slices of a volume, become samples."""

    stride: int = Field(default=1, ge=1)
    """Take every n-th frame, beginning with the first."""
    cap: int | None = Field(default=None, ge=1)
    """At most so many frames of one clip, evenly spaced over what the stride leaves."""
    axis: Literal["z", "y", "x", "t"] = "z"
    """Volumes [t, z, y, x]: the axis along which slices are taken."""
    nonempty: bool = False
    """Only slices that are not black (more than 1 % of pixels above 10)."""
    rotate: Literal[0, 90, 180, 270] = 0
    """Degrees clockwise, applied to each slice."""
    flip: Literal["none", "horizontal", "vertical"] = "none"


class Stack(_Strict):
    """Clips that lie one after another in one array file (HDF5): names of its arrays.

    Such a file counts as a folder of clips: the clip ``129_`` in ``dataset.hdf5`` is the member
    ``dataset.hdf5/129_``, and rules see that path.
    """

    pixels: str
    """Frames [n, H, W] or [n, H, W, 3]."""
    clip: str
    """Name of each frame's clip [n]."""
    order: str | None = None
    """Number of each frame in its clip [n]; None where they lie in order."""


class Masks(_Strict):
    """How the mask of an image is found: `match` is searched in the image's path, `path` is the template
    of the mask's path (``{name}`` for each named group), matched from the right."""

    match: Regex
    path: str
    threshold: int | None = Field(default=None, ge=0, le=255)
    """Grey value above which a pixel belongs to the structure; None keeps the values as class numbers."""


class Expected(_Strict):
    """What a complete copy holds; None where nobody could tell. Differences are reported, not repaired."""

    members: int | None = None
    """Selected files: images, clips or volumes."""
    frames: int | None = None
    """Frames or slices in them before any policy (equal to `members` for single images)."""
    patients: int | None = None
    kept: int | None = None
    """Samples under the default policy, where known exactly."""
    estimate: int | None = None
    """Rough number of samples under the default policy, where the counts above do not give it."""
    labels: dict[str, dict[Text, int]] = {}


class CleanChoice(_Strict):
    """What a source wants to be cleaned otherwise than its corpus says; None leaves it to the corpus. The fields are
    those of `CleanSettings`."""

    level: CleanLevel | None = None
    look: int | None = Field(default=None, ge=1)
    doppler: Literal["keep", "drop", "mask"] | None = None
    doppler_share: float | None = Field(default=None, ge=0, le=1)
    fill: Literal["local", "inpaint"] | None = None
    max_altered: float | None = Field(default=None, ge=0, le=1)


class Source(_Strict):
    """One dataset. See the module's docstring; every field's fact comes from the dataset's dossier."""

    schema_: Literal[1] = Field(alias="schema")
    number: int | None = None
    """Row in OpenUS-46; None for a dataset of one's own."""
    slug: Annotated[str, Field(pattern=SLUG)]
    name: str
    title: str
    anatomy: str
    """One lower-case word or two: the organ or region."""
    homepage: str | None = None
    kind: Kind
    licence: Licence
    citation: Citation | None = None
    routes: tuple[Route, ...] = ()
    images: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    """Known files that are not images (masks, tables, previews); they win over `images`."""
    frames: FramePolicy = FramePolicy()
    stack: Stack | None = None
    """Where one array file holds many clips; None where a file is one image, clip or volume."""
    clip: Rule | None = None
    """Groups frames of one acquisition stored as separate files. Clips and volumes are their own clip."""
    patient: Rule | None = None
    patients_public: bool = False
    """True where the source itself publishes these identifiers; otherwise they are stored as salted hashes."""
    labels: dict[str, Rule] = {}
    split: Rule | None = None
    """The official split or fold of each sample, as published."""
    masks: Masks | None = None
    clean: CleanLevel | CleanChoice | None = None
    """The level of cleaning this source wants, or more of its settings, where they differ from the corpus's."""
    expected: Expected = Expected()
    code: str | None = None
    """Module in ``openus.sources`` with the one small function this source needs."""
    overlaps: tuple[str, ...] = ()
    traps: tuple[str, ...] = ()
    confidence: str = "unknown"

    @property
    def access(self) -> Access:
        """The easiest access any route offers: open, account, registration or request."""
        order: tuple[Access, ...] = ("open", "account", "registration", "request")
        offered = {route.access for route in self.routes}
        return next((level for level in order if level in offered), "request")


class QualityLimits(_Strict):
    """When a finished picture is flagged in its row. Flagged pictures are kept; black ones are rejected."""

    white_level: int = Field(default=250, ge=1, le=255)
    """A pixel from this grey level on counts as white."""
    saturated: float = Field(default=0.2, ge=0, le=1)
    """Share of white pixels among those that are not black."""
    flat: float = Field(default=8.0, ge=0)
    """Standard deviation of the grey levels that are not black."""
    blurred: float = Field(default=0.02, ge=0)
    """Variance of the Laplacian over that of the grey levels."""
    tiny: int = Field(default=64, ge=0)
    """Short side in pixels."""
    black_level: int = Field(default=10, ge=0, le=255)
    """A pixel up to this grey level counts as black."""
    empty: float = Field(default=0.05, ge=0, le=1)
    """Share of pixels that are not black, below which a picture shows next to nothing."""


class CleanSettings(_Strict):
    level: CleanLevel = "none"
    """``none``: grey and resized. ``sector``: cropped to the scan sector, black outside. ``full``: text,
    calipers and coloured markings inside the sector masked too (extra ``text``)."""
    look: int = Field(default=64, ge=1)
    """So many frames from the front of a clip decide its sector and its static text."""
    doppler: Literal["keep", "drop", "mask"] = "keep"
    """Frames with colour Doppler: kept as they are, rejected, or with the colour masked (level ``full``).
    They are flagged in any case."""
    doppler_share: float = Field(default=0.005, ge=0, le=1)
    """Share of the picture in coloured areas (not lines) from which a frame counts as colour Doppler."""
    fill: Literal["local", "inpaint"] = "local"
    """What masked pixels become: the average of the tissue round them, or OpenCV's inpainting, which invents."""
    max_altered: float = Field(default=0.25, ge=0, le=1)
    """A frame with a greater share of masked pixels in its sector is rejected as ``altered``."""
    quality: QualityLimits = QualityLimits()
    size: int | Literal["native"] = 256
    """Short side in pixels after resizing (never enlarged), or ``native``."""
    filter: Literal["area", "lanczos"] = "area"
    dark_level: int = 10
    """A pixel above this grey level (0-255) counts as lit."""
    dark_fraction: float = Field(default=0.01, ge=0, le=1)
    """A frame with a smaller share of lit pixels is rejected as ``dark``."""


class CineSettings(_Strict):
    """Thinning inside a clip, of pretraining sets only."""

    distance: int = Field(ge=0, le=256)
    """Frames within so many bits (of 256) of one kept shortly before are dropped as ``cine``."""
    cap: int | None = Field(default=None, ge=1)
    """At most so many frames of a clip stay, evenly spaced over those left."""
    window: int = Field(default=8, ge=1)
    """So many of the frames kept last are compared with; what bounds the memory."""


class DedupSettings(_Strict):
    exact: bool = True
    """Drop all but one of the samples with equal pixels."""
    near: Literal["off", "report", "drop"] = "off"
    """Near-copies: not looked for; recorded as clusters, and dropped only where they leak a held-out sample;
    dropped."""
    score: float = Field(default=0.88, ge=0.5, le=1)
    """Similarity from which two pictures count as copies (`openus.dedup.compare`)."""
    reuploads: tuple[str, ...] = ()
    """Sources known to hold copies of others' pictures: their copies go, the originals stay."""
    cine: CineSettings | None = None


class Encoding(_Strict):
    format: Literal["jpg", "png", "webp"] = "jpg"
    quality: int = Field(default=95, ge=1, le=100)
    """JPEG quality; PNG and WebP are stored without loss."""


class PackSettings(_Strict):
    shard_bytes: int = Field(default=256 << 20, ge=1 << 16)
    pretrain: Encoding = Encoding()
    held_out: Encoding = Encoding(format="png")


class Corpus(_Strict):
    """A corpus: its sources, held-out sets, settings and seed."""

    schema_: Literal[1] = Field(alias="schema")
    name: Annotated[str, Field(pattern=SLUG)]
    title: str = ""
    seed: int = 0
    salt: str = ""
    """Mixed into the pseudonyms of patients whose identifiers the source does not publish."""
    sources: Literal["all"] | tuple[str, ...] = "all"
    held_out: dict[str, str] = {}
    """Source slug to the set it forms; all other sources go into `PRETRAIN`."""
    frames: dict[str, FramePolicy] = {}
    """Frame policies that replace those of the sources, by slug."""
    clean: CleanSettings = CleanSettings()
    clean_sources: dict[str, CleanLevel] = {}
    """Levels of cleaning that replace those of the sources, by slug."""
    dedup: DedupSettings = DedupSettings()
    pack: PackSettings = PackSettings()

    def clean_of(self, source: Source) -> CleanSettings:
        """How a source is cleaned: by the corpus, its own manifest, and the levels the corpus gives by name."""
        own = source.clean if isinstance(source.clean, CleanChoice) else CleanChoice(level=source.clean)
        chosen = own.model_dump(exclude_none=True)
        if source.slug in self.clean_sources:
            chosen["level"] = self.clean_sources[source.slug]
        return self.clean.model_copy(update=chosen)


class Protocol(_Strict):
    """How a benchmark is divided. ``kfold``: the row's split column names the test fold of each sample;
    ``split``: it holds the words of `train`, `val` and `test`."""

    kind: Literal["kfold", "split", "patient-kfold"]
    folds: int | None = None
    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    val_fraction: float = 0.15
    """Share of the training groups that becomes the validation part where none is published."""
    note: str = ""


class Benchmark(_Strict):
    """A task on a held-out set: label, classes in order, protocols, main metric."""

    schema_: Literal[1] = Field(alias="schema")
    name: Annotated[str, Field(pattern=SLUG)]
    title: str
    set: str
    sources: tuple[str, ...] = ()
    """Of the set, only the samples of these sources; empty: all."""
    task: Literal["classification", "multilabel", "segmentation", "regression"] = "classification"
    label: str
    classes: tuple[str, ...] = ()
    positive: str | None = None
    group: Literal["patient", "clip", "cluster", "key"] = "patient"
    """What must not be divided between training, validation and test."""
    protocols: dict[str, Protocol]
    metric: str = "f1_weighted"
    published: dict[str, float] = {}
    """Figures of the USF-MAE paper (F1 in per cent), always shown as published, never as ours."""
