"""Simulated ultrasound: a small physical model of how a B-mode picture, and its speckle, come about.

Nothing here is a patient. Point scatterers in a piece of invented tissue (`openus.demo.tissue`) are
insonified by one of four probes; the echo of each is spread by a point-spread function that is fixed along
the beam and widens away from the focus across it; where many echoes overlap they interfere, which is what
speckle is. Then what a scanner does: envelope (magnitude of the analytic signal), log compression, scan
conversion from beam coordinates to the picture.

    scatterers ─▶ radio-frequency lines ─▶ analytic signal ─▶ lateral spread ─▶ + noise ─▶ log ─▶ picture
    [2048, 128]                            [512, 128] complex (base band)                        uint8 [H, W]

The convolution model and its limits (linear, weak scattering, no phase aberration, lines that do not bend)
are those of J. C. Bamber and R. J. Dickinson, "Ultrasonic B-scanning: a computer simulation", Phys. Med.
Biol. 25 (1980) 463. Lengths are millimetres, frequencies megahertz, levels decibel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.fft import ifft, rfft
from scipy.ndimage import map_coordinates

from openus.demo.tissue import Lesion, LesionKind, Tissue, draw_lesion, draw_tissue

Array = NDArray[np.float32]
ProbeKind = Literal["linear", "convex", "phased", "trapezoid"]
PROBES: tuple[ProbeKind, ...] = ("linear", "convex", "phased", "trapezoid")

LINES = 128  # scan lines
RF_SAMPLES = 2048  # samples of one radio-frequency line; more than three in a period of the carrier
SAMPLES = 512  # samples of one line after demodulation
SCATTERERS = 120_000  # more than ten in a resolution cell, so that speckle is fully developed
SPEED = 1.54  # mm/µs, of sound in soft tissue


@dataclass(frozen=True)
class Probe:
    """A transducer: the shape of its field of view and the quality of its beam.

    Beam coordinates are `s`, the depth along a line in mm from the face, and `u`, the line's place across the
    face from -1 to 1. Space is `x` (to the right) and `z` (down) in mm; the middle of the face is the origin.
    """

    kind: ProbeKind
    depth: float
    """Length of a line in mm."""
    half_width: float
    """Half the width of the face in mm (linear, trapezoid)."""
    half_angle: float
    """Angle of the outermost line in radians (all but linear)."""
    radius: float
    """From the virtual apex to the middle of the face in mm: 0 for a phased array."""
    frequency: float
    """Centre frequency in MHz."""
    bandwidth: float
    """Full width of the spectrum at half its height, as a share of the frequency."""
    focus: float
    """Depth of the transmit focus as a share of `depth`."""

    def to_space(self, s: Array, u: Array) -> tuple[Array, Array]:
        """(x, z) of beam coordinates; arrays that broadcast against each other."""
        if self.kind == "linear":
            return np.broadcast_to(u * self.half_width, np.broadcast_shapes(s.shape, u.shape)), s + 0 * u
        angle = u * self.half_angle
        start = self._start(angle)
        return (start + s) * np.sin(angle), (start + s) * np.cos(angle) - self.radius

    def to_beam(self, x: Array, z: Array) -> tuple[Array, Array]:
        """(s, u) of points in space."""
        if self.kind == "linear":
            return z, x / self.half_width
        angle = np.arctan2(x, z + self.radius)
        return np.hypot(x, z + self.radius) - self._start(angle), angle / self.half_angle

    def _start(self, angle: Array) -> Array:
        """Distance from the apex to the face, which is flat for a trapezoid and round for a convex array."""
        if self.kind == "trapezoid":
            return (self.radius / np.cos(angle)).astype(np.float32)
        return np.full_like(angle, self.radius)

    def box(self) -> tuple[float, float, float, float]:
        """Left, right, top and bottom of the field of view in mm."""
        u = np.linspace(-1, 1, 65, dtype=np.float32)
        ends = [self.to_space(np.full_like(u, s), u) for s in (0.0, self.depth)]
        x, z = (np.concatenate([end[axis] for end in ends]) for axis in (0, 1))
        return float(x.min()), float(x.max()), float(z.min()), float(z.max())


@dataclass(frozen=True)
class Patient:
    """A simulated patient: one body, one probe, at most one lesion; every view of it is another plane."""

    seed: int
    number: int
    probe: Probe
    tissue: Tissue
    lesion: Lesion | None
    dynamic_range: float
    """dB from black to white."""
    gain: float
    """Brightness of average tissue, 0 to 1."""
    slope: float
    """dB from top to bottom that the time-gain compensation is wrong by."""


@dataclass(frozen=True)
class Phantom:
    """A simulated picture and what is known of it.

    pixels: uint8 [H, W], the B-mode picture, black outside the field of view.
    sector: bool [H, W], pixels inside the field of view.
    mask:   bool [H, W], pixels of the lesion (all False where there is none).
    lesion: "cyst", "solid", or None.
    probe:  what it was seen with.
    apex:   (x, y) in pixels of the virtual apex of the lines; None for a linear array.
    scale:  pixels per millimetre.
    """

    pixels: NDArray[np.uint8]
    sector: NDArray[np.bool_]
    mask: NDArray[np.bool_]
    lesion: LesionKind | None
    probe: Probe
    apex: tuple[float, float] | None
    scale: float


def draw_patient(seed: int, number: int, lesion: LesionKind | None, kind: ProbeKind | None = None) -> Patient:
    """Invent patient `number` of a study with this `seed`; the same arguments give the same patient."""
    rng = np.random.default_rng([seed, number])
    probe = draw_probe(rng, kind or PROBES[int(rng.integers(len(PROBES)))])
    return Patient(
        seed=seed,
        number=number,
        probe=probe,
        tissue=draw_tissue(rng, probe.depth),
        lesion=None if lesion is None else draw_lesion(rng, lesion, probe.depth),
        dynamic_range=float(rng.uniform(50, 65)),
        gain=float(rng.uniform(0.40, 0.56)),
        slope=float(rng.normal(0, 5)),
    )


def draw_probe(rng: np.random.Generator, kind: ProbeKind) -> Probe:
    """A transducer of this kind with plausible sizes; deep views use low frequencies, as they must."""
    depth = float(
        {"linear": rng.uniform(32, 50), "trapezoid": rng.uniform(40, 60)}.get(kind, rng.uniform(90, 150))
    )
    half_width = depth * float(rng.uniform(0.40, 0.55))
    half_angle, radius = 0.0, 0.0
    if kind == "convex":
        half_angle, radius = float(rng.uniform(0.45, 0.60)), float(rng.uniform(40, 60))
    elif kind == "phased":
        half_angle = float(rng.uniform(0.62, 0.75))
    elif kind == "trapezoid":
        half_angle = float(rng.uniform(0.25, 0.40))
        half_width *= 0.75
        radius = half_width / float(np.tan(half_angle))
    periods = float(rng.uniform(480, 600))  # of the carrier in one line, there and back
    return Probe(
        kind, depth, half_width, half_angle, radius,
        frequency=periods * SPEED / (2 * depth),
        bandwidth=float(rng.uniform(0.35, 0.5)),
        focus=float(rng.uniform(0.35, 0.65)),
    )  # fmt: skip


def view(patient: Patient, number: int, size: int = 192, margin: int = 6) -> Phantom:
    """View `number` of a patient: another plane through the same body, seen with the same probe.

    size: pixels of the picture's short side, without the black `margin` on each side.
    """
    rng = np.random.default_rng([patient.seed, patient.number, 1 + number])
    probe = patient.probe
    lesion = None if patient.lesion is None else patient.lesion.shifted(rng, probe.depth)
    x, z = probe.to_space(*_beam_grid(SAMPLES, probe.depth))
    level = patient.tissue.echogenicity(x, z, rng)
    loss = patient.tissue.excess_loss(x, z)
    if lesion is not None:
        level, loss = lesion.apply(level, loss, x, z)
    # Time-gain compensation evens average tissue out; what attenuates more throws a shadow, less, light.
    level = level - np.cumsum(2 * loss, axis=0) * (probe.depth / SAMPLES)
    level = level + np.linspace(-0.5, 0.5, SAMPLES, dtype=np.float32)[:, None] * patient.slope
    reflectors = patient.tissue.interfaces(probe.to_space, LINES, rng)
    signal = echoes(rng, probe, level, reflectors) + _noise(rng)
    return _picture(signal, patient, lesion, size, margin)


def echoes(
    rng: np.random.Generator, probe: Probe, level: Array, reflectors: Iterable[tuple[Array, Array]] = ()
) -> NDArray[np.complex64]:
    """The analytic signal of each line in base band, complex64 [SAMPLES, LINES]; its magnitude: the envelope.

    level:      float32 [SAMPLES, LINES], strength in dB of the scatterers at each place in beam coordinates.
    reflectors: smooth interfaces as (depth along each line in mm [LINES], strength [LINES]).
    """
    rf = _scatter(rng, level)
    for depth, strength in reflectors:
        _reflect(rf, depth / probe.depth, strength, level)
    return spread(analytic(rf, probe), probe)


def _beam_grid(samples: int, depth: float) -> tuple[Array, Array]:
    s = ((np.arange(samples, dtype=np.float32) + 0.5) * (depth / samples))[:, None]
    return s, np.linspace(-1, 1, LINES, dtype=np.float32)[None, :]


def _scatter(rng: np.random.Generator, level: Array) -> Array:
    """Echo strengths of point scatterers at random places of the radio-frequency grid [RF_SAMPLES, LINES]."""
    cells = rng.integers(RF_SAMPLES * LINES, size=SCATTERERS)
    row, line = np.divmod(cells, LINES)
    strength = _amplitude(level)[row * SAMPLES // RF_SAMPLES, line]
    return (
        np.bincount(cells, weights=strength, minlength=RF_SAMPLES * LINES)
        .astype(np.float32)
        .reshape(-1, LINES)
    )


def _reflect(rf: Array, depth: Array, strength: Array, level: Array) -> None:
    """Add a smooth interface: a coherent echo per line at `depth` (share of a line), weaker where oblique."""
    rows = np.rint(depth * RF_SAMPLES).astype(int)
    lines = np.flatnonzero((rows >= 0) & (rows < RF_SAMPLES))
    rows = rows[lines]
    slope = np.gradient(depth * SAMPLES)[lines]
    # Twice the level: no border runs through what a cyst or a vessel has pushed aside.
    shadow = _amplitude(2 * np.minimum(level[rows * SAMPLES // RF_SAMPLES, lines], 0))
    rf[rows, lines] += strength[lines] * np.exp(-((slope / 2.5) ** 2)) * shadow


def analytic(rf: Array, probe: Probe) -> NDArray[np.complex64]:
    """Pulse, analytic signal and demodulation in one step along the line, [SAMPLES, LINES].

    The pulse is a Gaussian in frequency round the carrier; keeping only positive frequencies gives the
    analytic signal (Hilbert), and keeping only the `SAMPLES` bins round the carrier shifts it to base band.
    """
    spectrum = rfft(rf, axis=0)
    carrier = 2 * probe.frequency * probe.depth / SPEED  # in periods per line, there and back
    low = int(carrier) - SAMPLES // 2
    bins = np.arange(low, low + SAMPLES)
    width = probe.bandwidth * carrier / (2 * np.sqrt(2 * np.log(2)))
    pulse = np.exp(-0.5 * ((bins - carrier) / width) ** 2).astype(np.float32)
    band = spectrum[low : low + SAMPLES] * pulse[:, None]
    signal = ifft(band / np.linalg.norm(pulse), axis=0) * np.float32(SAMPLES / RF_SAMPLES**0.5)
    return np.asarray(signal, dtype=np.complex64)


def spread(signal: NDArray[np.complex64], probe: Probe, zones: int = 8) -> NDArray[np.complex64]:
    """The beam's width: a Gaussian across the lines, narrow at the focus and wider away from it.

    The width changes smoothly with depth; it is computed for a few depths and blended between them.
    """
    depths = np.linspace(0, 1, SAMPLES, dtype=np.float32)
    centres = np.linspace(0, 1, zones)
    lines = np.arange(LINES, dtype=np.float32)
    gap2 = (lines[:, None] - lines[None, :]) ** 2
    out = np.zeros_like(signal)
    for centre in centres:
        weight = np.clip(1 - np.abs(depths - centre) * (zones - 1), 0, None)
        rows = weight > 0
        sigma = 0.9 * np.sqrt(1 + ((centre - probe.focus) / 0.28) ** 2)
        kernel = np.exp(-gap2 / (2 * sigma**2))
        kernel /= np.sqrt((kernel**2).sum(axis=0).max())
        out[rows] += (weight[rows, None] * signal[rows]) @ kernel.astype(np.complex64)
    return out


def _noise(rng: np.random.Generator) -> NDArray[np.complex64]:
    """Electronic noise; the amplification that makes up for depth amplifies it too."""
    level = np.linspace(-52, -26, SAMPLES, dtype=np.float32)[:, None]
    real, imaginary = rng.standard_normal((2, SAMPLES, LINES), dtype=np.float32)
    return np.asarray((real + 1j * imaginary) * (_amplitude(level) * 0.7), dtype=np.complex64)


def _picture(
    signal: NDArray[np.complex64], patient: Patient, lesion: Lesion | None, size: int, margin: int
) -> Phantom:
    """Envelope, log compression and scan conversion."""
    probe = patient.probe
    level = 20 * np.log10(np.abs(signal) + 1e-6)
    grey = np.clip(patient.gain + (level - np.median(level)) / patient.dynamic_range, 0, 1) * 255
    left, right, top, bottom = probe.box()
    scale = size / min(right - left, bottom - top)
    width, height = (round((high - low) * scale) for low, high in ((left, right), (top, bottom)))
    x = ((np.arange(-margin, width + margin, dtype=np.float32) + 0.5) / scale + left)[None, :]
    z = ((np.arange(-margin, height + margin, dtype=np.float32) + 0.5) / scale + top)[:, None]
    s, u = probe.to_beam(*np.broadcast_arrays(x, z))
    sector = (s >= 0) & (s < probe.depth) & (np.abs(u) <= 1)
    places = np.stack([s * (SAMPLES / probe.depth) - 0.5, (u + 1) * ((LINES - 1) / 2)])
    pixels = map_coordinates(grey.astype(np.float32), places, order=1, mode="nearest", prefilter=False)
    pixels = np.where(sector, np.rint(pixels), 0).astype(np.uint8)
    mask = sector & lesion.inside(x, z) if lesion is not None else np.zeros_like(sector)
    apex = None if probe.kind == "linear" else (margin - left * scale, margin - (probe.radius + top) * scale)
    return Phantom(pixels, sector, mask, lesion.kind if lesion else None, probe, apex, scale)


def _amplitude(level: Array) -> Array:
    """Decibel to amplitude."""
    return np.power(np.float32(10), level / 20, dtype=np.float32)
