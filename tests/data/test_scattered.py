"""Signals of scattered samples: what files are read, in which frame, and what is said of them."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from nid_jax import data
from nid_jax.data import frames, outliers, scattered, tables
from nid_jax.notices import Notice

RNG = np.random.default_rng(3)


def config_of(root, **points):
    """config.data of a file, with some of data.points."""
    config = data.completed({"name": "points", "root": str(root), "test_fraction": 0.25})
    config.points.update(points)
    return config


def table_of(days=8, stations=6, **columns):
    """Columns of days of stations, x from 0 to 40, y from -3 to 3."""
    count = days * stations
    found = {
        "signal": np.repeat(np.arange(days), stations),
        "x": RNG.uniform(0, 40, count),
        "y": RNG.uniform(-3, 3, count),
        "value": RNG.normal(10, 4, count),
    }
    return {**found, **columns}


def write(path, table):
    """A .csv, .npz or .parquet of columns."""
    if path.suffix == ".npz":
        np.savez(path, **table)
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(table), path)
    else:
        rows = zip(*table.values(), strict=True)
        text = "\n".join(",".join(map(str, row)) for row in rows)
        path.write_text(f"{','.join(table)}\n{text}\n")
    return path


def opened(config, split="train"):
    """The collection, and the lines that were said of it."""
    with pytest.warns(Notice) as said:
        found = scattered.open_points(config, split, 0)
    return found, [str(one.message) for one in said]


@pytest.mark.parametrize("suffix", [".csv", ".npz", ".parquet"])
def test_a_file_of_signals_in_its_own_frame(tmp_path, suffix):
    table = table_of()
    root = write(tmp_path / f"days{suffix}", table)
    found, said = opened(config_of(root))
    unseen = opened(config_of(root), "test")[0]
    assert (len(found), len(unseen)) == (6, 2)
    assert not set(found.names) & set(unseen.names)
    frame = found.frame
    assert frame == unseen.frame
    assert [axis.name for axis in frame.axes] == ["y", "x"]
    assert frame.axes[1].low == table["x"].min()
    assert frame.channels[0].high == table["value"].max()
    chosen = table["signal"] == int(found.names[2])
    own = np.stack([table["y"], table["x"]], -1)[chosen]
    order, mine = np.argsort(own[:, 0]), frame.outside(found.points(2))
    mine_order = np.argsort(mine[:, 0])
    np.testing.assert_allclose(mine[mine_order], own[order], atol=1e-5)
    values = frame.values(found[2])[mine_order, 0]
    np.testing.assert_allclose(values, table["value"][chosen][order], atol=1e-5)
    assert "signals by signal, coordinates y, x, values value" in said[0]


def test_a_folder_with_a_file_for_each_signal(tmp_path):
    for day in range(5):
        table = table_of(1)
        del table["signal"]
        write(tmp_path / f"day{day}.csv", table)
    found, _ = opened(config_of(tmp_path))
    assert set(found.names) <= {f"day{day}" for day in range(5)}
    assert len(found) == 4


def test_splits_in_folders(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        write(tmp_path / split / "a.csv", table_of(1))
    for split in ("train", "test"):
        assert opened(config_of(tmp_path), split)[0].names == ["a/0"]


def test_columns_of_other_names(tmp_path):
    table = table_of()
    names = {"signal": "day", "x": "along", "y": "across", "value": "salt"}
    root = write(tmp_path / "a.csv", {names[key]: column for key, column in table.items()})
    roles = {"signal": "day", "coordinates": ("across", "along"), "channels": ("salt",)}
    config = config_of(root, **roles, units=("g/l",))
    found = scattered.open_points(config, "train", 0)
    assert found.frame.channels[0].label == "salt, g/l"


def test_moments_are_days(tmp_path):
    table = table_of()
    hours = np.arange(48).astype("timedelta64[h]")
    table["time"] = (np.datetime64("2026-03-01T06") + hours).astype("datetime64[s]")
    found, _ = opened(config_of(write(tmp_path / "a.csv", table)))
    time = found.frame.axes[0]
    assert time.label == "time, days since 2026-03-01"
    np.testing.assert_allclose((time.low, time.high), (0.25, 0.25 + 47 / 24))


def test_new_data_take_the_frame_that_was_learned_in(tmp_path):
    found, _ = opened(config_of(write(tmp_path / "a.csv", table_of())))
    smaller = table_of(4)
    smaller["x"], smaller["y"] = smaller["x"] / 2 + 10, smaller["y"] / 2
    config = config_of(write(tmp_path / "b.csv", smaller))
    data.take_frame(config.points, found.frame)
    assert scattered.open_points(config, "train", 0).frame == found.frame
    data.take_frame(config.points, found.frame, "day")
    assert config.points.signal == "day"
    config.points.signal = ""
    config.root = str(write(tmp_path / "c.csv", {**smaller, "x": smaller["x"] + 30}))
    with pytest.raises(ValueError, match=r"data.points.frame: .*has x .*, outside .*points are"):
        scattered.open_points(config, "train", 0)
    config.points.units = ("K",)
    with pytest.raises(ValueError, match=r"data.points.units: \('K',\); allowed: .*, as learned"):
        data.take_frame(config.points, found.frame)
    config.points.units = ()
    config.points.frame = ((0.0, 1.0), (0.0, 1.0))
    with pytest.raises(ValueError, match="as learned"):
        data.take_frame(config.points, found.frame)


def geographic(lat, lon):
    """A table of latitudes and longitudes."""
    table = table_of()
    count = len(table["value"])
    del table["x"], table["y"]
    return {**table, "lat": RNG.uniform(*lat, count), "lon": RNG.uniform(*lon, count)}


def test_degrees_are_said(tmp_path):
    found, said = opened(config_of(write(tmp_path / "a.csv", geographic((46, 48), (6, 10)))))
    assert found.frame.axes[0].label == "lat, degrees"
    assert any("taken as degrees" in line and "radians" not in line for line in said)


def test_small_angles_may_be_radians(tmp_path):
    _, said = opened(config_of(write(tmp_path / "a.csv", geographic((0.8, 0.9), (0.1, 0.2)))))
    assert any("are they radians?" in line for line in said)


def test_the_date_line(tmp_path):
    table = geographic((-20, -10), (170, 190))
    table["lon"] = np.where(table["lon"] > 180, table["lon"] - 360, table["lon"])
    found, said = opened(config_of(write(tmp_path / "a.csv", table)))
    assert found.frame.axes[1].low >= 170
    assert found.frame.axes[1].high <= 190
    assert any("date line" in line for line in said)
    # New data on one side of it lie in the same frame.
    table["lon"] = np.where(table["lon"] < 0, table["lon"], table["lon"] - 360)
    config = config_of(write(tmp_path / "b.csv", table))
    data.take_frame(config.points, found.frame)
    assert opened(config)[0].frame == found.frame


def changed(name, index, value):
    """A table of one changed number."""
    table = table_of()
    table[name] = table[name].astype(object)
    table[name][index] = value
    return table


def in_radians():
    table = geographic((46, 48), (6, 10))
    own = table["signal"] == 3
    for name in ("lat", "lon"):
        table[name] = np.where(own, np.radians(table[name]), table[name])
    return table


def without(name):
    table = table_of()
    del table[name]
    return table


BAD = {
    "a coordinate that is missing": (changed("x", 4, "nan"), r"signal '0' has x nan in line 6"),
    "a signal without values": (
        {**table_of(), "value": np.where(np.arange(48) < 6, np.nan, 1.0 + np.arange(48))},
        r"signal '0' has no value at all, 6 rows",
    ),
    "text among numbers": (
        changed("value", 3, "warm"),
        r"value holds 'warm' in line 5; allowed: num",
    ),
    "wide": (
        {"signal": table_of()["signal"], **{f"ST{k}": table_of()["value"] for k in range(7)}},
        r"0 coordinates among .*; a column for each place \(ST0, ST1, .* pandas.melt\(table, 's",
    ),
    "no signal": (without("signal"), r"no column 'signal' says .* data.points.signal=NAME"),
    "no values": (without("value"), r"which columns are values\?"),
    "no coordinates": (
        {"signal": np.arange(4), "value": np.arange(4.0)},
        r"0 coordinates among its columns",
    ),
    "a flat coordinate": ({**table_of(), "y": np.ones(48)}, r"y is 1 everywhere"),
    "two units": (in_radians(), r"signal '3' has lat 0\.8.*radians where others have degrees"),
    "latitudes beyond the poles": (geographic((100, 120), (6, 10)), r"-90 to 90 degrees"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore::nid_jax.notices.Notice")
def test_what_cannot_be_is_one_line(tmp_path, name):
    table, words = BAD[name]
    root = write(tmp_path / "a.csv", table)
    with pytest.raises(ValueError, match=words) as error:
        scattered.open_points(config_of(root), "train", 0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ({"channels": ("salt",)}, "no column 'salt', data.points.channels; has signal, x, y"),
        ({"frame": ((0, 1),)}, r"data.points.frame: .*allowed: 2 pairs \(low, high\)"),
        ({"range": ((5, 1),)}, r"data.points.range: .*allowed: 1 pairs"),
        ({"range": ((0, np.inf),)}, r"data.points.range: .*allowed: 1 pairs .* finite"),
        ({"frame": ((0, 1), (-np.inf, 9))}, r"data.points.frame: .*allowed: 2 pairs .* finite"),
        ({"units": ("m", "K")}, r"data.points.units: \('m', 'K'\); allowed: at most 1, of value"),
        ({"since": "yesterday"}, r"data.points.since: 'yesterday'; allowed: a day"),
        ({"coordinates": ("x", "x")}, r"a column has two roles among x, x, signal"),
        ({"frame": ((-3, 3), (0, 20))}, r"signal .* has x .*, outside 0 to 20; \d+ coordinates"),
    ],
)
@pytest.mark.filterwarnings("ignore::nid_jax.notices.Notice")
def test_keys_that_cannot_be(tmp_path, points, words):
    config = config_of(write(tmp_path / "a.csv", table_of()))
    config.points.update(points)
    with pytest.raises(ValueError, match=words):
        scattered.open_points(config, "train", 0)


def test_gaps_duplicates_and_single_points_are_said(tmp_path):
    table = table_of()
    table["value"] = np.where(np.arange(48) % 6 == 5, np.nan, table["value"])
    for name in ("x", "y", "value"):
        table[name][7] = table[name][6]
        if name != "value":
            table[name][13] = table[name][12]
    table["value"][19:24] = np.nan
    found, said = opened(config_of(write(tmp_path / "a.csv", table)))
    words = "\n".join(said)
    assert "12 of 48 rows have no value" in words
    assert "1 duplicate rows; taken once (1 signals, '1' among them)" in words
    assert "1 rows at a point that has another value too" in words
    assert "1 of 8 signals have 1 point ('3'" in words
    counts = [len(found[index]) for index in range(len(found))]
    assert sorted(set(counts)) == [1, 4, 5] or sorted(set(counts)) == [4, 5]


def test_latitude_and_longitude_exchanged_are_said(tmp_path):
    table = geographic((46, 48), (6, 10))
    assert not any(
        "exchanged" in line for line in opened(config_of(write(tmp_path / "a.csv", table)))[1]
    )
    own = table["signal"] == 3
    lat, lon = table["lat"], table["lon"]
    table["lat"], table["lon"] = np.where(own, lon, lat), np.where(own, lat, lon)
    _, said = opened(config_of(write(tmp_path / "b.csv", table)))
    words = "1 of 8 signals ('3', lat "
    assert sum(words in line and "with the two exchanged" in line for line in said) == 1


def test_a_signal_in_another_unit_is_said(tmp_path):
    table = table_of()
    _, said = opened(config_of(write(tmp_path / "a.csv", table)))
    assert not any("another unit" in line for line in said)
    table["x"] = np.where(table["signal"] == 2, 1000.0, 1.0) * table["x"]
    _, said = opened(config_of(write(tmp_path / "b.csv", table)))
    (line,) = (line for line in said if "another unit" in line)
    assert "1 of 8 signals ('2', x " in line
    # Degrees beside metres are no degrees.
    table = geographic((46, 48), (6, 10))
    table["lat"] = np.where(table["signal"] == 2, 5.1e6, table["lat"])
    root = write(tmp_path / "c.csv", table)
    with pytest.raises(
        ValueError, match=r"signal '2' has lat 5.1e\+06; allowed: -90 to 90 degrees"
    ):
        scattered.open_points(config_of(root), "train", 0)


@pytest.mark.slow
def test_a_signal_of_a_million_points(tmp_path):
    draw = np.random.default_rng(0)
    counts = [1_000_000, 1, 20]
    table = {"signal": np.repeat(np.arange(3), counts)}
    for name in ("x", "y", "value"):
        table[name] = draw.uniform(size=sum(counts))
    config = config_of(write(tmp_path / "a.npz", table))
    config.test_fraction = 0.0
    found, said = opened(config)
    assert [len(found[index]) for index in range(3)] == counts
    assert any("1 of 3 signals have 1 point ('1')" in line for line in said)


def test_stations_that_stay_share_a_way():
    points = RNG.uniform(0, 1, (5, 2))
    frame = frames.Frame(
        (frames.Scale("y", "m", 0, 1), frames.Scale("x", "m", 0, 1)),
        (frames.Scale("v", "", 0, 2),),
    )
    some = [points, points, points[:3]]
    values = [np.full((len(one), 1), 1.0) for one in some]
    found = scattered.PointsCollection(some, values, frame, (4, 4), "abc", "three")
    assert [found.way(index) for index in range(3)] == [0, 0, 1]
    assert found[1][0, 0] == 0.5
    with pytest.raises(ValueError, match=r"three: signal 'c': y, m: 2.0; allowed: 0 to 1"):
        scattered.PointsCollection(
            [*some[:2], points[:3] * 0 + 2], values, frame, (4, 4), "abc", "three"
        )


def test_text_tables(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\ufeffname;moment;depth\nup;2026-01-02T03:04:05Z;1,5\ndown;;nan\n")
    with pytest.warns(Notice, match="decimal commas; '1,5' taken as 1.5"):
        found = tables.read_table(path)
    assert found["name"].tolist() == ["up", "down"]
    assert found["moment"][0] == np.datetime64("2026-01-02T03:04:05")
    assert np.isnat(found["moment"][1])
    assert found["depth"][0] == 1.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("x,y,value\n1,2,3\0\n", "line 2 holds a byte 0"),
        ('x,y,"value\n(m)"\n1,2,3\n1,2\n', "line 4 has 2 columns; expected 3"),
        ("x,,value\n1,2,3\n", "column 2 has no name"),
        ("x,y,value\n", "no rows"),
        ("x,y,value\n1,2\n", "line 2 has 2 columns; expected 3"),
        ("x,x,value\n1,2,3\n", "distinct names"),
        ("1,2,3\n1,2,3\n", "holds numbers; expected names"),
    ],
)
def test_text_that_is_no_table(tmp_path, text, words):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        tables.read_table(path)


LARGE = 2**60 + np.repeat(np.arange(8), 6)
LABELS = {
    "whole numbers beyond 2^53": (LARGE, [str(2**60 + day) for day in range(8)]),
    "unsigned ones": (
        LARGE.astype(np.uint64) + np.uint64(2**63),
        [str(2**63 + 2**60 + day) for day in range(8)],
    ),
    "bytes": (np.repeat([b"b", b"a"], 24), ["a", "b"]),
}


@pytest.mark.parametrize("suffix", [".csv", ".npz", ".parquet"])
@pytest.mark.parametrize("name", LABELS)
@pytest.mark.filterwarnings("ignore::nid_jax.notices.Notice")
def test_labels_are_as_the_file_has_them(tmp_path, name, suffix):
    labels, expected = LABELS[name]
    if suffix == ".csv" and labels.dtype.kind == "S":
        labels = labels.astype(str)
    root = write(tmp_path / f"a{suffix}", table_of(signal=labels))
    config = config_of(root)
    config.test_fraction = 0.5
    names = [scattered.open_points(config, split, 0).names for split in ("train", "test")]
    assert sorted(sum(names, [])) == sorted(expected)


def test_labels_of_text_that_looks_like_numbers(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"{label},{k},{k * k}" for k, label in enumerate(["1e20", "00", "000", "7", "10"])]
    path.write_text("\n".join(["signal,x,value", *rows]))
    with pytest.warns(Notice):
        table = scattered._read(config_of(path))
    assert list(table.coordinates) == ["00", "000", "7", "10", "1e20"]
    path.write_text("\n".join(["signal,x,value", *rows[:2], ",3,4"]))
    with pytest.warns(Notice), pytest.raises(ValueError, match="signal is missing in line 4"):
        scattered._read(config_of(path))


def test_a_label_that_is_missing(tmp_path):
    import pyarrow
    from pyarrow import parquet

    for kind, labels in (("int", [1, 2**60, None]), ("text", ["a", "b", None])):
        path = tmp_path / f"{kind}.parquet"
        columns = {"signal": labels, "x": [1.0, 2, 3], "value": [4.0, 5, 6]}
        parquet.write_table(pyarrow.table(columns), path)
        with pytest.warns(Notice), pytest.raises(ValueError, match="signal is missing in row 3"):
            scattered._read(config_of(path))


@pytest.mark.parametrize(
    ("cells", "odd"),
    [
        (["1", "12.3 C", "2"], "12.3 C"),
        (["1", '"1,234.5"', "2"], "1,234.5"),
        (["True", "False", "True"], "True"),
    ],
)
def test_one_bad_cell_is_named(tmp_path, cells, odd):
    path = tmp_path / "a.csv"
    line = 4 if odd != "True" else 2
    rows = [f"d{k},{k},{cell}" for k, cell in enumerate(cells)]
    path.write_text("\n".join(["signal,x,temp", rows[0], "", *rows[1:]]))
    with pytest.raises(ValueError, match=f"temp holds '{odd}' in line {line}; allowed: numbers"):
        scattered._read(config_of(path))


def test_decimals_are_numbers_and_columns_have_one_name(tmp_path):
    import decimal

    import pyarrow
    from pyarrow import parquet

    path, value = tmp_path / "a.parquet", [decimal.Decimal("1.25"), decimal.Decimal("2.5")]
    parquet.write_table(pyarrow.table({"x": [1.0, 2.0], "temp": value}), path)
    assert tables.read_table(path)["temp"].tolist() == [1.25, 2.5]
    arrays = [pyarrow.array([1.0, 2.0])] * 2
    parquet.write_table(pyarrow.Table.from_arrays(arrays, names=["x", "x"]), path)
    with pytest.raises(ValueError, match="two columns 'x'; expected distinct names"):
        tables.read_table(path)


@pytest.mark.filterwarnings("ignore::nid_jax.notices.Notice")
def test_text_in_another_file_of_a_folder(tmp_path):
    (tmp_path / "a.csv").write_text("x,y,temp\n1,2,3\n2,3,4\n")
    (tmp_path / "b.csv").write_text("x,y,temp\n1,2,3\n2,3,abc\n")
    with pytest.raises(ValueError, match=r"b.csv: temp holds 'abc' in line 3; allowed: numbers"):
        scattered._read(config_of(tmp_path))
    (tmp_path / "b.csv").write_text("x,y,temp\n1,2,3\n2E,3,4\n")
    with pytest.raises(ValueError, match=r"b.csv: x holds '2E' in line 3; allowed: numbers, or"):
        scattered._read(config_of(tmp_path))


def test_moments_with_zones_and_far_away(tmp_path, recwarn):
    path = tmp_path / "a.csv"
    moments = ["2026-01-01T01:00+02:00", "2026-01-01 00:30:00.25Z", "2026-01-02", "-"]
    path.write_text("\n".join(["time,value", *(f"{one},1" for one in moments)]))
    found = tables.read_table(path)["time"]
    expected = ["2025-12-31T23:00", "2026-01-01T00:30:00.25", "2026-01-02", "NaT"]
    np.testing.assert_array_equal(found, np.array(expected, "datetime64[ns]"))
    assert [str(one.message) for one in recwarn] == [
        f"{path}: time: moments with a zone, such as '2026-01-01T01:00+02:00'; taken as universal "
        "time"
    ]
    path.write_text("signal,time,value\na,2026-01-01,1\nb,2500-01-01,2\n")
    with pytest.raises(ValueError, match=r"time holds '2500-01-01' in line 3; .* 1678 to 2261"):
        scattered._read(config_of(path))


@pytest.mark.filterwarnings("ignore::nid_jax.notices.Notice")
def test_values_that_no_render_could_show(tmp_path):
    root = write(tmp_path / "a.csv", changed("value", 3, "1e30"))
    with pytest.raises(ValueError, match=r"signal '0' has value 1e\+30 in line 5; allowed"):
        scattered._read(config_of(root))


@pytest.mark.parametrize("odd", [-9999.0, -999.9, 1e18])
def test_what_lies_far_from_everything_is_said(tmp_path, odd):
    _, said = opened(config_of(write(tmp_path / "a.csv", changed("value", 3, odd))))
    assert any(f"value: 1 of 48 lies far from the others, {odd:.6g}" in line for line in said)
    table = geographic((44, 48), (6, 10))
    table["lat"][5] = 0.79
    _, said = opened(config_of(write(tmp_path / "b.csv", table)))
    assert any("lat: 1 of 48 lies far from the others, 0.79" in line for line in said)


def test_numbers_far_from_others():
    usual = RNG.normal(size=1000)
    for values in (usual, np.exp(usual), usual > 0.9, np.maximum(usual, 0), [1.0, 5.0], [3.0] * 9):
        assert outliers.doubt_of_outliers(np.asarray(values, float)) == ""
    two = np.concatenate([usual, usual + 90])
    assert outliers.doubt_of_outliers(two) == ""
    gaps = outliers.doubt_of_outliers(np.concatenate([usual, [-9999.0] * 400]))
    assert gaps.startswith("400 of 1400 lie far from the others, -9999, while these are -")


def test_files_of_other_kinds(tmp_path):
    root = tmp_path / "a.parquet"
    root.write_bytes(b"no such thing")
    with pytest.raises(ValueError, match=r"a.parquet: cannot be read as a .parquet file"):
        scattered.open_points(config_of(root), "train", 0)
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"saving as .csv makes one"):
        scattered.open_points(config_of(tmp_path / "a.xlsx"), "train", 0)
    with pytest.raises(FileNotFoundError, match="no such file"):
        scattered.open_points(config_of(tmp_path / "b.csv"), "train", 0)


def test_built_in_stations_differ_from_day_to_day():
    config = data.completed({"name": "stations", "num_train": 4, "size": (6, 8)})
    found = data.open_collection(config, "train", 0)
    again = data.open_collection(ConfigDict({**config, "num_train": 6}), "train", 0)
    np.testing.assert_array_equal(found[3], again[3])
    assert len(found.ways) == 4
    assert found.truth(0).shape == (6, 8, 1)
    noise = found.frame.values(found[1])[:, 0] - _truth(found, 1)
    assert 0.15 < noise.std() < 0.5


def test_as_many_stations_report_as_are_asked_for():
    """More than the pool has, but where a region is silent."""
    asked = {"name": "stations", "num_train": 8, "size": (6, 8), "stations": {"count": 400}}
    found = data.open_collection(data.completed(asked), "train", 0)
    assert max(len(values) for values in found) == 400
    fewer = data.open_collection(data.completed(asked | {"stations": {"count": 40}}), "train", 0)
    assert max(len(values) for values in fewer) == 40


def _truth(found, index):
    from nid_jax.data import stations

    return stations.temperature(found.days[index], found.points(index))
