"""Invented tissue for the simulated pictures: layers, vessels and two kinds of lesion.

The two lesions differ as simple cysts and suspicious solid masses do (A. T. Stavros et al., "Solid breast
nodules: use of sonography to distinguish between benign and malignant lesions", Radiology 196 (1995) 123; the
ultrasound lexicon of ACR BI-RADS):

- ``cyst``: no echoes inside, smooth and round, a thin bright wall, and brighter tissue behind it, because
  fluid attenuates less than tissue does (posterior enhancement);
- ``solid``: few echoes inside, an irregular outline, and a shadow behind it (posterior shadowing).

Both vary and overlap, so that telling them apart has to be learnt: some cysts hold debris, some masses hardly
throw a shadow. Lengths are millimetres, levels decibel relative to average tissue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

Array = NDArray[np.float32]
LesionKind = Literal["cyst", "solid"]
LESIONS: tuple[LesionKind, ...] = ("cyst", "solid")
ToSpace = Callable[[Array, Array], tuple[Array, Array]]


@dataclass(frozen=True)
class Layer:
    """Tissue from its wavy upper border down to the next layer's."""

    top: float
    """Mean depth of the upper border."""
    waves: tuple[tuple[float, float, float], ...]
    """Undulation of the border: (amplitude, wave number in 1/mm, phase)."""
    level: float
    """Mean echogenicity in dB."""
    texture: float
    """Standard deviation in dB of slow changes of echogenicity."""
    grain: tuple[float, float]
    """Extent (across, along depth) of these changes."""
    border: float
    """Strength of the smooth reflection at the upper border; 0 for none."""

    def depth_at(self, x: Array) -> Array:
        wave = sum((a * np.sin(k * x + phase) for a, k, phase in self.waves), start=np.zeros_like(x))
        return (self.top + wave).astype(np.float32)


@dataclass(frozen=True)
class Vessel:
    """A round or oval cross-section without echoes."""

    x: float
    z: float
    rx: float
    rz: float

    def inside(self, x: Array, z: Array) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = ((x - self.x) / self.rx) ** 2 + ((z - self.z) / self.rz) ** 2 < 1
        return found


@dataclass(frozen=True)
class Tissue:
    """A stack of layers with vessels, the last layer possibly bone or gas, which hides what is behind it."""

    layers: tuple[Layer, ...]
    vessels: tuple[Vessel, ...]
    wall: Layer | None

    def echogenicity(self, x: Array, z: Array, rng: np.random.Generator) -> Array:
        """Level in dB at points [S, L]; slow texture is drawn anew for each view."""
        level = np.zeros_like(x)
        for layer in self.layers:
            below = z >= layer.depth_at(x)
            level = np.where(below, layer.level + layer.texture * _field(rng, x, z, layer.grain), level)
        for vessel in self.vessels:
            level = np.where(vessel.inside(x, z), np.float32(-32), level)
        if self.wall is not None:
            level = np.where(z >= self.wall.depth_at(x), self.wall.level, level)
        return level.astype(np.float32)

    def excess_loss(self, x: Array, z: Array) -> Array:
        """Attenuation beyond the average in dB/mm, one way."""
        if self.wall is None:
            return np.zeros_like(x)
        return np.where(z >= self.wall.depth_at(x), np.float32(1.2), np.float32(0)).astype(np.float32)

    def interfaces(
        self, to_space: ToSpace, lines: int, rng: np.random.Generator
    ) -> Iterator[tuple[Array, Array]]:
        """Smooth reflectors as (depth along each line in mm [L], strength [L])."""
        u = np.linspace(-1, 1, lines, dtype=np.float32)
        for layer in (*self.layers, *([self.wall] if self.wall else [])):
            if layer.border <= 0:
                continue
            depth = np.full_like(u, max(layer.top, 0))
            for _ in range(6):  # follow each line until it meets the border
                x, z = to_space(depth, u)
                depth = np.maximum(depth + (layer.depth_at(x) - z), 0).astype(np.float32)
            patchy = 0.4 + 0.6 * np.abs(np.sin(u * rng.uniform(2, 6) + rng.uniform(0, 6)))
            yield depth, (layer.border * patchy).astype(np.float32)


@dataclass(frozen=True)
class Lesion:
    """One lesion: where it is, its outline in polar form about its centre, and what it does to sound."""

    kind: LesionKind
    x: float
    z: float
    radius: float
    aspect: float
    """Width over height."""
    tilt: float
    bumps: tuple[tuple[int, float, float], ...]
    """Outline: (number of lobes, relative amplitude, phase)."""
    level: float
    texture: float
    rim: float
    """Level of the thin border in dB."""
    loss: float
    """Attenuation beyond the average in dB/mm, one way; negative: enhancement."""
    seed: int

    def shifted(self, rng: np.random.Generator, depth: float) -> Lesion:
        """The same lesion in another plane: moved, a little larger or smaller, turned."""
        dx, dz = rng.normal(0, 0.05 * depth, 2)
        return replace(
            self,
            x=self.x + float(dx),
            z=float(np.clip(self.z + dz * 0.6, 0.2 * depth, 0.66 * depth)),
            radius=self.radius * float(rng.uniform(0.8, 1.15)),
            aspect=self.aspect * float(rng.uniform(0.9, 1.1)),
            tilt=self.tilt + float(rng.normal(0, 0.2)),
            seed=int(rng.integers(2**31)),
        )

    def distance(self, x: Array, z: Array) -> Array:
        """Distance from the outline in mm along the ray from the centre; negative inside."""
        cos, sin = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        along = ((x - self.x) * cos + (z - self.z) * sin) / np.float32(self.aspect**0.5)
        across = ((z - self.z) * cos - (x - self.x) * sin) * np.float32(self.aspect**0.5)
        angle = np.arctan2(across, along)
        lobes = sum((a * np.cos(k * angle + phase) for k, a, phase in self.bumps), start=np.zeros_like(angle))
        return np.asarray(np.hypot(along, across) - self.radius * (1 + lobes), dtype=np.float32)

    def inside(self, x: Array, z: Array) -> NDArray[np.bool_]:
        """Whether points lie in the lesion, bool of the broadcast shape."""
        return np.asarray(self.distance(x, z) < 0)

    def apply(self, level: Array, loss: Array, x: Array, z: Array) -> tuple[Array, Array]:
        """Put the lesion into maps of level (dB) and excess loss (dB/mm), all [S, L]."""
        distance = self.distance(x, z)
        soft = 0.04 * self.radius if self.kind == "cyst" else 0.12 * self.radius
        share = 1 / (1 + np.exp(np.clip(distance / soft, -30, 30)))
        rng = np.random.default_rng(self.seed)
        own = self.level + self.texture * _field(rng, x, z, (0.35 * self.radius, 0.3 * self.radius))
        rim = self.rim * np.exp(-((distance / (0.1 * self.radius)) ** 2))
        mixed = level * (1 - share) + own * share + rim
        return mixed.astype(np.float32), (loss + self.loss * (distance < 0)).astype(np.float32)


def draw_tissue(rng: np.random.Generator, depth: float) -> Tissue:
    """Two to four random layers over `depth` mm, up to three vessels, now and then a bright far wall."""
    tops = [0.0, *sorted(rng.uniform(0.06, 0.8, int(rng.integers(1, 4))))]
    layers = tuple(_draw_layer(rng, depth, float(top), first=top == 0) for top in tops)
    vessels = tuple(
        Vessel(
            x=float(rng.normal(0, 0.3 * depth)),
            z=float(rng.uniform(0.3, 0.9) * depth),
            rx=float(rng.uniform(0.015, 0.05) * depth),
            rz=float(rng.uniform(0.015, 0.035) * depth),
        )
        for _ in range(int(rng.integers(0, 4)))
    )
    wall = None
    if rng.random() < 0.4:
        wall = replace(
            _draw_layer(rng, depth, float(rng.uniform(0.78, 0.95)), first=False), level=-6, border=40
        )
    return Tissue(layers, vessels, wall)


def _draw_layer(rng: np.random.Generator, depth: float, top: float, first: bool) -> Layer:
    waves = tuple(
        (
            float(rng.uniform(0.002, 0.02) * depth),
            float(rng.uniform(2, 9) / depth),
            float(rng.uniform(0, 6.3)),
        )
        for _ in range(2)
    )
    long = float(
        rng.uniform(0.05, 0.3) * depth
    )  # across; short along the depth: the stripes of fat and muscle
    return Layer(
        top=-0.2 * depth if first else top * depth,
        waves=waves,
        level=0.0 if first else float(rng.uniform(-9, 6)),
        texture=float(rng.uniform(1.5, 5)),
        grain=(long, long * float(rng.uniform(0.12, 0.8))),
        border=0.0 if first else float(rng.choice([0, 4, 8, 20])),
    )


def draw_lesion(rng: np.random.Generator, kind: LesionKind, depth: float) -> Lesion:
    """A random lesion of this kind in tissue of `depth` mm."""
    cyst = kind == "cyst"
    lobes = range(2, 4) if cyst else range(2, 9)
    strength = 0.03 if cyst else float(rng.uniform(0.08, 0.16))
    return Lesion(
        kind=kind,
        x=float(rng.normal(0, 0.08 * depth)),
        z=float(rng.uniform(0.3, 0.55) * depth),
        radius=float(rng.uniform(0.08, 0.17) * depth),
        aspect=float(rng.uniform(0.95, 1.5) if cyst else rng.uniform(0.7, 1.5)),
        tilt=float(rng.normal(0, 0.15 if cyst else 0.5)),
        bumps=tuple((k, float(rng.normal(0, strength / k**0.5)), float(rng.uniform(0, 6.3))) for k in lobes),
        level=float(rng.choice([-42, -34, -20], p=[0.5, 0.3, 0.2]) if cyst else rng.uniform(-20, -9)),
        texture=1.0 if cyst else float(rng.uniform(2, 5)),
        rim=float(rng.uniform(2, 8)) if cyst else float(rng.uniform(0, 4)),
        loss=float(rng.uniform(-5, -1) if cyst else rng.uniform(0, 8)) / (0.25 * depth),
        seed=int(rng.integers(2**31)),
    )


def _field(rng: np.random.Generator, x: Array, z: Array, grain: tuple[float, float]) -> Array:
    """A smooth random field of mean 0 and standard deviation 1 at points [S, L], with this extent in mm."""
    places = [(axis - axis.min()) / extent + 2 for axis, extent in ((z, grain[1]), (x, grain[0]))]
    shape = [int(place.max()) + 4 for place in places]
    knots = rng.standard_normal(shape, dtype=np.float32)
    field = map_coordinates(knots, np.stack(places), order=1, mode="nearest", prefilter=False)
    return np.asarray((field - field.mean()) / (field.std() + 1e-6), dtype=np.float32)
