"""What is appended is whole, whatever a crash left at the end."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from serving import line_file

LINE = st.binary(min_size=1).filter(lambda line: b"\n" not in line)


@given(lines=st.lists(LINE, min_size=1), torn=st.binary(), more=LINE)
def test_each_line_is_on_a_line_of_its_own(lines: list[bytes], torn: bytes, more: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines"
        for line in lines:
            line_file.append(path, line)
        assert path.read_bytes() == b"".join(line + b"\n" for line in lines)
        with path.open("ab") as file:
            file.write(torn)
        line_file.append(path, more)
        assert path.read_bytes().split(b"\n")[-2:] == [more, b""]
