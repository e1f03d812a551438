"""One zstd frame and nothing beside it: the profile of RFC 8878 that archives are written and read in.

A decoder passes over skippable and empty frames, and takes frames with all kinds of headers for the same content. Here
the frame begins with six fixed bytes (no content size, no dictionary, a checksum, a window of 2 MiB), its blocks
follow one another to the one that says it is the last, then comes the checksum, and then nothing. `OneFrame` holds
that against the bytes on their way to the decoder, which sees none of a frame that begins otherwise.
"""

from __future__ import annotations

from typing import BinaryIO, Final

import zstandard

from blyan.primitives import limits
from blyan.primitives.errors import InvalidInput

_window_bits: Final = 21
window_bytes: Final = 1 << _window_bits
frame_begin: Final = bytes.fromhex("28b52ffd") + bytes([0b100, (_window_bits - 10) << 3])  # magic, descriptor, window
frame_parameters: Final = zstandard.ZstdCompressionParameters(
    compression_level=3, window_log=_window_bits, write_checksum=True, write_content_size=False, write_dict_id=False
)

_block_header_bytes: Final = 3
_checksum_bytes: Final = 4
_block_bytes_max: Final = 128 * limits.KIB
_rle, _reserved = 1, 3  # types of blocks: 0 raw, 2 compressed


class OneFrame:
    """The next `length` bytes of a file, which must be one frame; a source for a decoder."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file = file
        self._left = length
        self._seen = b""  # the beginning of the frame, or of a block's header
        self._wanted = len(frame_begin)  # bytes of it
        self._begun = False
        self._last = False  # whether the block that is passed is the last one
        self._body = 0  # bytes that pass before the next header

    def read(self, count: int) -> bytes:
        """The next bytes, `InvalidInput` where they are not those of one frame."""
        found = self._file.read(min(count, self._left))
        self._left -= len(found)
        at = 0
        while at < len(found):
            if self._body:
                step = min(self._body, len(found) - at)
                self._body -= step
            elif self._last:
                raise InvalidInput(f"expected one zstd frame, found {len(found) - at + self._left} bytes after its end")
            else:
                step = min(self._wanted - len(self._seen), len(found) - at)
                self._take(found[at : at + step])
            at += step
        return found

    def end(self) -> None:
        """`InvalidInput` unless the frame was read to its end and nothing follows."""
        while self.read(_block_bytes_max):
            pass
        if self._left or self._body or not self._last:
            raise InvalidInput("expected a whole zstd frame, found it cut short")

    def _take(self, part: bytes) -> None:
        self._seen += part
        if not self._begun and not frame_begin.startswith(self._seen):
            raise InvalidInput(f"expected a zstd frame that begins {frame_begin.hex()}, found {self._seen.hex()}")
        if len(self._seen) < self._wanted:
            return
        if self._begun:
            header = int.from_bytes(self._seen, "little")
            kind, size = header >> 1 & 3, header >> 3
            if kind == _reserved or size > _block_bytes_max:
                raise InvalidInput(f"zstd block: expected at most {_block_bytes_max} bytes, found {size}, type {kind}")
            self._last = bool(header & 1)
            self._body = (1 if kind == _rle else size) + (_checksum_bytes if self._last else 0)
        self._begun, self._seen, self._wanted = True, b"", _block_header_bytes
