# SPDX-License-Identifier: Apache-2.0
"""The zip container of torch files: stored members only, every offset and checksum verified."""

from __future__ import annotations

import os
import struct
import zlib
from typing import BinaryIO, NamedTuple

import numpy as np

from fastdet.formats.errors import FileFormatError, shown
from fastdet.formats.file_kinds import archive_kind, open_file

_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END64, _LOCATOR64 = b"PK\x06\x06", b"PK\x06\x07"
_BROKEN = "the file is incomplete or damaged; download it again"
_ENCRYPTED, _AES = 0x1, 99
_DESCRIPTOR = 0x8  # checksum and sizes stand behind the member, not before it
_CHUNK = 1 << 20
_MAX_DIRECTORY = 16 << 20
_MAX_MEMBERS = 50_000


class _Member(NamedTuple):
    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int  # offset of the local header


class Archive:
    """The members of a zip file by name. Open for as long as members are read; a context manager.

    Only the central directory is believed, and only where the local headers agree: members lie between the start of
    the file and the directory, do not overlap, are neither compressed nor encrypted, and nothing stands before the
    first. Anything else is a FileFormatError.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = path
        self._file: BinaryIO = open_file(path)
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self._members = {member.name: member for member in self._directory()}
            self._check_kind()
            self._data = self._check_layout()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def names(self) -> list[str]:
        """Names of all members, in the order of the directory."""
        return list(self._members)

    def member_size(self, name: str) -> int | None:
        """Bytes of a member, or None where there is none of this name."""
        member = self._members.get(name)
        return None if member is None else member.size

    def read_bytes(self, name: str) -> bytes:
        """The bytes of a member; its checksum has been verified."""
        member = self._members[name]
        self._file.seek(self._data[name])
        data = self._file.read(member.size)
        if len(data) != member.size or zlib.crc32(data) != member.crc:
            raise FileFormatError(self.path, f"member {shown(name)!r} has a wrong checksum; {_BROKEN}")
        return data

    def read(self, name: str) -> np.ndarray:
        """The bytes of a member as a fresh uint8 array; its checksum has been verified."""
        member = self._members[name]
        data = np.empty(member.size, np.uint8)
        self._file.seek(self._data[name])
        crc, view = 0, memoryview(data)  # type: ignore[arg-type]
        for start in range(0, member.size, _CHUNK):
            part = view[start : start + _CHUNK]
            if self._file.readinto(part) != len(part):  # type: ignore[attr-defined]
                raise FileFormatError(self.path, f"member {shown(name)!r} ends early; {_BROKEN}")
            crc = zlib.crc32(part, crc)
        if crc != member.crc:
            raise FileFormatError(self.path, f"member {shown(name)!r} has a wrong checksum; {_BROKEN}")
        return data

    def _at(self, offset: int, length: int) -> bytes:
        if not 0 <= offset <= self.size - length:
            raise FileFormatError(self.path, f"an offset of the zip structure lies outside the file; {_BROKEN}")
        self._file.seek(offset)
        return self._file.read(length)

    def _directory(self) -> list[_Member]:
        start, length, count, end = self._end_record()
        self._start = start
        if start + length != end:
            raise FileFormatError(
                self.path, "the zip directory is not where it says; something was put before or into it"
            )
        if count > _MAX_MEMBERS or length > _MAX_DIRECTORY:
            raise FileFormatError(self.path, f"has {count} members in its zip directory; no checkpoint has so many")
        raw = self._at(start, length)
        members: list[_Member] = []
        names = set()
        position = 0
        for _ in range(count):
            if raw[position : position + 4] != _CENTRAL or position + 46 > length:
                raise FileFormatError(self.path, f"the zip directory is damaged; {_BROKEN}")
            flags, method = struct.unpack_from("<HH", raw, position + 8)
            crc, packed, size, name_length, extra_length, comment_length = struct.unpack_from(
                "<IIIHHH", raw, position + 16
            )
            (header,) = struct.unpack_from("<I", raw, position + 42)
            tail = position + 46 + name_length
            if tail + extra_length + comment_length > length:
                raise FileFormatError(self.path, f"the zip directory is damaged; {_BROKEN}")
            try:
                name = raw[position + 46 : tail].decode()
            except UnicodeDecodeError:
                raise FileFormatError(self.path, "a member's name is not UTF-8") from None
            size, packed, header = self._zip64(raw[tail : tail + extra_length], size, packed, header)
            if name in names:
                raise FileFormatError(self.path, f"member {shown(name)!r} is there twice")
            names.add(name)
            members.append(_Member(name, flags, method, crc, packed, size, header))
            position = tail + extra_length + comment_length
        if position != length:
            raise FileFormatError(self.path, f"the zip directory holds more than its members; {_BROKEN}")
        return members

    def _check_kind(self) -> None:
        """Refuse archives that are no checkpoint, as their names or the way they are packed tell."""
        for name, flags, method, *_ in self._members.values():
            if flags & _ENCRYPTED or method == _AES:
                raise FileFormatError(
                    self.path, f"member {shown(name)!r} is encrypted; unpack it with its password first"
                )
            if any(bad in name for bad in "\0\\") or name.startswith("/") or ".." in name.split("/"):
                raise FileFormatError(self.path, f"member {shown(name)!r} leads out of the archive; do not unpack it")
        reason = archive_kind(list(self._members))
        if reason is not None:
            raise FileFormatError(self.path, reason)
        for name, _, method, _, packed, size, _ in self._members.values():
            if method != 0:
                raise FileFormatError(
                    self.path,
                    f"member {shown(name)!r} is compressed, {packed} bytes for {size}; torch.save compresses nothing",
                )
            if packed != size:
                raise FileFormatError(
                    self.path, f"member {shown(name)!r} has two sizes, {packed} and {size}; {_BROKEN}"
                )

    def _end_record(self) -> tuple[int, int, int, int]:
        """Offset, length and entries of the directory, and the offset of what must follow it."""
        tail_length = min(self.size, 22 + 0xFFFF)
        tail = self._at(self.size - tail_length, tail_length)
        found = tail.rfind(_END)
        while found >= 0:  # the record whose comment ends with the file
            if found + 22 <= len(tail) and found + 22 + struct.unpack_from("<H", tail, found + 20)[0] == len(tail):
                break
            found = tail.rfind(_END, 0, found)
        if found < 0:
            broken_off = self._at(0, min(4, self.size)) == _LOCAL
            raise FileFormatError(
                self.path,
                "has no zip directory: the download broke off; download it again"
                if broken_off
                else "is not a torch checkpoint (a zip archive)",
            )
        disk, first_disk, here, count, length, start = struct.unpack_from("<HHHHII", tail, found + 4)
        end = self.size - tail_length + found
        if end >= 20 and self._at(end - 20, 4) == _LOCATOR64:
            _, _, end64, disks = struct.unpack("<4sIQI", self._at(end - 20, 20))
            record = self._at(end64, 56)
            if record[:4] != _END64 or disks != 1 or end64 + 12 + struct.unpack_from("<Q", record, 4)[0] != end - 20:
                raise FileFormatError(self.path, f"the zip64 record is damaged; {_BROKEN}")
            plain = (here, count, length, start)
            disk, first_disk, here, count, length, start = struct.unpack_from("<IIQQQQ", record, 16)
            limits = (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
            if any(p not in (q, limit) for p, q, limit in zip(plain, (here, count, length, start), limits)):
                raise FileFormatError(self.path, "the zip and zip64 records contradict each other")
            end = end64
        if disk or first_disk or here != count:
            raise FileFormatError(self.path, "archives in several parts are not read")
        return start, length, count, end

    def _zip64(self, extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
        """The three numbers with those that are all ones replaced by the zip64 extra field's, in its fixed order."""
        position = 0
        values = [size, packed, header]
        while position + 4 <= len(extra):
            kind, length = struct.unpack_from("<HH", extra, position)
            if kind == 1:
                field, used = extra[position + 4 : position + 4 + length], 0
                for i, value in enumerate(values):
                    if value == 0xFFFFFFFF:
                        if used + 8 > len(field):
                            raise FileFormatError(self.path, f"a zip64 field is too short; {_BROKEN}")
                        (values[i],) = struct.unpack_from("<Q", field, used)
                        used += 8
                break
            position += 4 + length
        return values[0], values[1], values[2]

    def _check_layout(self) -> dict[str, int]:
        """Where each member's bytes start; every local header agrees with the directory and no two members overlap."""
        data = {}
        end = 0
        for member in sorted(self._members.values(), key=lambda member: member.header):
            fixed = self._at(member.header, 30)
            flags, method = struct.unpack_from("<HH", fixed, 6)
            crc, packed, size, name_length, extra_length = struct.unpack_from("<IIIHH", fixed, 14)
            name = self._at(member.header + 30, name_length)
            # torch's own writer leaves the local numbers at zero, or at all ones with the true ones in an extra field.
            told = [(crc, member.crc), (packed, member.size), (size, member.size)]
            lies = any(local not in (real, 0, 0xFFFFFFFF) for local, real in told)
            same = fixed[:4] == _LOCAL and name == member.name.encode() and method == 0 and not flags & _ENCRYPTED
            if not same or (lies and not flags & _DESCRIPTOR):
                raise FileFormatError(self.path, f"member {shown(member.name)!r} differs from its directory entry")
            start = member.header + 30 + name_length + extra_length
            if member.header < end or start + member.size > self._start:
                raise FileFormatError(self.path, f"member {shown(member.name)!r} overlaps another or the directory")
            if not end and member.header:
                raise FileFormatError(self.path, "something was put before the zip archive")
            data[member.name] = start
            end = start + member.size
        return data
