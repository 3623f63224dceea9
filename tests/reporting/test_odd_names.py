"""Names of files and columns may hold anything: drawings and pages take them as they are."""

import numpy as np
import pytest

from nid_jax import notices
from nid_jax.data.frames import Frame, Scale
from nid_jax.reporting import maps, panels, pictures, report, tables

ODD = ["a\nb", "\x1b[31mred", "<script>alert(1)</script>", "\udcff\udcfe", "$x_{", "\u202eevil"]


def test_sheets_take_odd_names(tmp_path):
    images = np.zeros((len(ODD), 4, 4, 1))
    sheet = panels.write_sheet(tmp_path / "a.png", [panels.Panel("truth", images)], ODD)
    assert sheet.stat().st_size
    assert pictures.shortened("a\nb\x1b", 1000, pictures.font_of()) == r"a b\x1b"


@pytest.mark.parametrize("axes", [1, 2])
def test_maps_take_odd_names(tmp_path, axes):
    scales = tuple(Scale(name, "m", 0, 1) for name in ODD)
    frame = Frame(scales[3 : 3 + axes], scales[1:2])
    path = tmp_path / "a.png"
    maps.draw_field(path, np.ones((3, 4, 1)[-axes - 1 :]), frame, "$x_{\n\x1b")
    assert path.stat().st_size


def test_pages_show_odd_names_as_text(tmp_path):
    (tmp_path / "config.json").write_text('{"task": "image"}')
    odd = "<script>alert(1)</script>\x1b\u202e"
    for name in ("a", "b"):
        folder = tmp_path / "fits" / name
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(f'{{"dataset": "{odd[:-2]}\\u001b\\u202e"}}')
    page = report.write_report(tmp_path).read_bytes().decode()
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_tables_and_lines_show_them_as_numbers():
    table = tables.table([[name, 1.0] for name in ODD], ["signal", "PSNR"])
    assert len(table.splitlines()) == 2 + len(ODD)
    assert notices.shown(table) == table
    table.encode()
