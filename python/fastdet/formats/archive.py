# SPDX-License-Identifier: Apache-2.0
"""The zip container of torch files: stored members only, every offset and checksum verified."""

from __future__ import annotations

import os
import struct
import zlib
from typing import BinaryIO, NamedTuple

import numpy as np

from fastdet.formats.errors import FileFormatError

_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END64, _LOCATOR64 = b"PK\x06\x06", b"PK\x06\x07"
_LEGACY_PICKLE = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")  # torch before 1.6: a pickled magic number
_BROKEN = "the file is incomplete or damaged; download it again"
_ENCRYPTED = 0x1
_CHUNK = 1 << 20


class _Member(NamedTuple):
    name: str
    crc: int
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
        try:
            self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise FileFormatError(path, f"cannot be opened: {error.strerror}") from error
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self._members = {member.name: member for member in self._directory()}
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

    def read(self, name: str) -> np.ndarray:
        """The bytes of a member as a fresh uint8 array; its checksum has been verified."""
        member = self._members[name]
        data = np.empty(member.size, np.uint8)
        self._file.seek(self._data[name])
        crc, view = 0, memoryview(data)  # type: ignore[arg-type]
        for start in range(0, member.size, _CHUNK):
            part = view[start : start + _CHUNK]
            if self._file.readinto(part) != len(part):  # type: ignore[attr-defined]
                raise FileFormatError(self.path, f"member {name!r} ends early; {_BROKEN}")
            crc = zlib.crc32(part, crc)
        if crc != member.crc:
            raise FileFormatError(self.path, f"member {name!r} has a wrong checksum; {_BROKEN}")
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
            if method != 0 or flags & _ENCRYPTED or packed != size:
                raise FileFormatError(
                    self.path,
                    f"member {name!r} is compressed or encrypted; no checkpoint is (a TorchScript program may be)",
                )
            if name in names:
                raise FileFormatError(self.path, f"member {name!r} is there twice")
            names.add(name)
            members.append(_Member(name, crc, size, header))
            position = tail + extra_length + comment_length
        if position != length:
            raise FileFormatError(self.path, f"the zip directory holds more than its members; {_BROKEN}")
        return members

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
            raise FileFormatError(self.path, self._what_it_is())
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
            name_length, extra_length = struct.unpack_from("<HH", fixed, 26)
            name = self._at(member.header + 30, name_length)
            if fixed[:4] != _LOCAL or name != member.name.encode() or struct.unpack_from("<H", fixed, 8)[0] != 0:
                raise FileFormatError(self.path, f"member {member.name!r} differs from its entry in the directory")
            start = member.header + 30 + name_length + extra_length
            if member.header < end or start + member.size > self._start:
                raise FileFormatError(self.path, f"member {member.name!r} overlaps another or the directory")
            if not end and member.header:
                raise FileFormatError(self.path, "something was put before the zip archive")
            data[member.name] = start
            end = start + member.size
        return data

    def _what_it_is(self) -> str:
        """Why a file without a zip directory is none, for the files that people really have."""
        head = self._at(0, min(self.size, 512))
        text = head.lstrip().lower()
        if not head:
            return "is empty; download it again"
        if head.startswith(b"version https://git-lfs"):
            return "is a Git LFS pointer, not the file itself; run `git lfs pull` or download it from its release page"
        if text.startswith((b"<!doctype", b"<html", b"<?xml")):
            return "is a web page, not a checkpoint; download it with the link to the file itself"
        if head.startswith(_LOCAL):
            return "has no zip directory: the download broke off; download it again"
        if head.startswith(_LEGACY_PICKLE):
            return "was written by torch before 1.6; load it there and save it again with torch 1.6 or later"
        return "is not a torch checkpoint (a zip archive)"
