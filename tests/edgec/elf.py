"""What a test needs to know of an ELF file (System V ABI, chapters 4 and 5; 64-bit little-endian only)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["EM_AARCH64", "EM_X86_64", "PT_INTERP", "ElfFile"]

EM_X86_64, EM_AARCH64 = 62, 183
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ = 1, 5, 6, 10
_SHT_DYNSYM = 11


@dataclass(frozen=True)
class ElfFile:
    """An ELF file in memory."""

    data: bytes

    @classmethod
    def read(cls, path: Path) -> ElfFile:
        data = path.read_bytes()
        assert data[:6] == b"\x7fELF\x02\x01", f"{path} is no 64-bit little-endian ELF file"
        return cls(data)

    @property
    def machine(self) -> int:
        return int(struct.unpack_from("<H", self.data, 18)[0])

    def segments(self) -> Iterator[tuple[int, int, int, int]]:
        """Type, offset, address and size in the file of every program header."""
        (table,) = struct.unpack_from("<Q", self.data, 32)
        size, count = struct.unpack_from("<HH", self.data, 54)
        for i in range(count):
            kind, _, offset, address, _, in_file = struct.unpack_from("<IIQQQQ", self.data, table + i * size)
            yield kind, offset, address, in_file

    @property
    def segment_types(self) -> set[int]:
        return {kind for kind, *_ in self.segments()}

    @property
    def needed(self) -> list[str]:
        """Names of the shared libraries that the dynamic section asks for."""
        entries = list(self._dynamic())
        strings = self._offset(next((value for tag, value in entries if tag == _DT_STRTAB), 0))
        return [self._text(strings + value) for tag, value in entries if tag == _DT_NEEDED]

    def exported(self) -> set[str]:
        """Names that other objects can see: defined, global or weak symbols of the dynamic symbol table."""
        (table,) = struct.unpack_from("<Q", self.data, 40)
        size, count, _ = struct.unpack_from("<HHH", self.data, 58)
        sections = [struct.unpack_from("<IIQQQQIIQQ", self.data, table + i * size) for i in range(count)]
        (symbols,) = (section for section in sections if section[1] == _SHT_DYNSYM)
        strings = sections[symbols[6]][4]
        names = set()
        for offset in range(symbols[4], symbols[4] + symbols[5], 24):
            name, info, _, section = struct.unpack_from("<IBBH", self.data, offset)
            if section != 0 and info >> 4 in (1, 2):
                names.add(self._text(strings + name))
        return names

    def _dynamic(self) -> Iterator[tuple[int, int]]:
        for kind, offset, _, size in self.segments():
            if kind == PT_DYNAMIC:
                for position in range(offset, offset + size, 16):
                    yield struct.unpack_from("<QQ", self.data, position)

    def _offset(self, address: int) -> int:
        """Where in the file lies what is mapped to ``address``."""
        for kind, offset, start, size in self.segments():
            if kind == PT_LOAD and start <= address < start + size:
                return offset + address - start
        return address

    def _text(self, offset: int) -> str:
        return self.data[offset : self.data.index(b"\0", offset)].decode()
