"""Decoding: from the bytes of any file to frames, by content and not by suffix, one frame at a time.

`open_media` opens a file and says what it is; `Media.frames` streams its pictures under a `FramePolicy`.
`decode_image` is the short way for one encoded picture in memory. Every failure is a `DecodeError` with a stable
reason; no exception of a library comes through, and no decoder writes to the terminal.

media      the way in; `sniff`: what a file is
frame      what comes out; `policy`: which frames, and how they are turned
image, dicom (`lut`), video, array, volume (`nifti`, `itk`), stack    the decoders
grey, limits, original    values to 8 bits; what a file may ask of this machine; a file's own bytes without its notes
"""

from openus.decode.frame import Frame, Media, Pixels, Sibling
from openus.decode.limits import DecodeLimits
from openus.decode.media import decode_image, open_media

__all__ = ["DecodeLimits", "Frame", "Media", "Pixels", "Sibling", "decode_image", "open_media"]
