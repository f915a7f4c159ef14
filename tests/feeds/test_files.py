"""Files as vendors write them are read exactly; wrong ones are named with file, row and field."""

from __future__ import annotations

import gzip
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentfund.clock import from_micros
from agentfund.errors import BadData, ConfigError
from agentfund.feeds import Bars, SimulatedMarket
from agentfund.market import Columns

GOOD = [
    "Time,Open,High,Low,Close,Volume",
    "2024-01-02 09:30:00,10.00,10.50,9.90,10.25,100",
    "2024-01-02 09:45:00,10.25,10.75,10.20,10.50,200",
    "2024-01-02 10:00:00,10.50,10.60,10.10,10.15,300",
    "2024-01-02 10:15:00,10.15,10.35,10.05,10.30,400",
]


def write(folder: Path, lines: list[str], name: str = "AAPL.csv", end: str = "\n") -> Path:
    """Write lines to a file."""
    path = folder / name
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def only(bars: Bars) -> Columns:
    """The columns of the one instrument."""
    (columns,) = bars.columns.values()
    return columns


def test_a_file_is_read_exactly(tmp_path: Path) -> None:
    """Every number, the interval and the tick come out as they are written, without a warning."""
    bars = Bars.from_csv(write(tmp_path, GOOD, "AAPL_15m.csv"))
    c = only(bars)
    assert [from_micros(x).isoformat() for x in c.start[:2]] == ["2024-01-02T09:30:00+00:00", "2024-01-02T09:45:00+00:00"]
    assert c.close.tolist() == [10.25, 10.50, 10.15, 10.30]
    assert c.volume.tolist() == [100, 200, 300, 400]
    assert (c.instrument.symbol, c.instrument.tick_size, c.interval) == ("AAPL", Decimal("0.01"), timedelta(minutes=15))
    assert bars.source == "AAPL_15m.csv"
    assert bars.warnings == ()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", ["\t", ",", ";", "|"])
def test_usual_separators_are_known(tmp_path: Path, separator: str, end: str) -> None:
    """What stands between the values and behind the lines does not change them."""
    path = write(tmp_path, [line.replace(",", separator) for line in GOOD], end=end)
    assert Bars.from_csv(path).fingerprint == Bars.from_csv(write(tmp_path, GOOD, "AAPL.txt")).fingerprint


@pytest.mark.parametrize(
    "header",
    [
        "Time,Open,High,Low,Close,Volume",
        "date,o,h,l,c,v",
        "<DATETIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<TICKVOL>",
        "Gmt time,Open,High,Low,Close,Volume",
        "open_time,OPEN,HIGH,LOW,CLOSE,VOLUME",
        "timestamp,1. open,2. high,3. low,4. close,5. volume",
        " Time , Open , High , Low , Close , Volume ",
        ",Open,High,Low,Close,Volume",
    ],
)
def test_usual_headers_are_known(tmp_path: Path, header: str) -> None:
    """Names of columns differ in case, brackets and words; what they hold is the same."""
    path = write(tmp_path, [header, *GOOD[1:]])
    assert Bars.from_csv(path).fingerprint == Bars.from_csv(write(tmp_path, GOOD, "AAPL.txt")).fingerprint


def test_columns_may_stand_in_any_order_among_others(tmp_path: Path) -> None:
    """`Adj Close` is not the close, and unknown columns are left alone, also two of one name."""
    lines = ["Adj Close,Close,Note,Volume,Low,High,Open,Time,Note"]
    for line in GOOD[1:]:
        time, o, h, low, c, v = line.split(",")
        lines.append(f"1.0,{c},text,{v},{low},{h},{o},{time},")
    assert Bars.from_csv(write(tmp_path, lines)).fingerprint == Bars.from_csv(write(tmp_path, GOOD)).fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff".encode() + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: gzip.compress(text.encode(), mtime=0),
        lambda text: b"\n\n" + text.encode() + b"\n\n\n",
        lambda text: text.replace("\n", ",\n").encode(),
        lambda text: text.rstrip().encode(),
    ],
)
def test_byte_order_marks_gzip_and_blank_lines_do_not_matter(tmp_path: Path, change: Any) -> None:
    """The bytes around the table are not the table."""
    path = tmp_path / "AAPL.csv"
    path.write_bytes(change("\n".join(GOOD) + "\n"))
    assert Bars.from_csv(path).fingerprint == Bars.from_csv(write(tmp_path, GOOD, "b.csv"), "AAPL").fingerprint


def test_decimal_commas_go_with_semicolons(tmp_path: Path) -> None:
    """European spreadsheets write 10,25."""
    lines = [line.replace(",", ";").replace(".", ",") for line in GOOD]
    bars = Bars.from_csv(write(tmp_path, lines))
    assert bars.fingerprint == Bars.from_csv(write(tmp_path, GOOD)).fingerprint
    assert bars.instruments[0].tick_size == Decimal("0.01")


def test_date_and_time_in_two_columns_are_joined(tmp_path: Path) -> None:
    """MetaTrader writes the day and the time of day beside each other."""
    lines = ["<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>"]
    for line in GOOD[1:]:
        time, *prices, volume = line.split(",")
        day, hour = time.split(" ")
        lines.append("\t".join([day.replace("-", "."), hour, *prices, "7", volume, "1"]))
    assert Bars.from_csv(write(tmp_path, lines)).fingerprint == Bars.from_csv(write(tmp_path, GOOD)).fingerprint


def test_unusual_columns_can_be_named(tmp_path: Path) -> None:
    """What cannot be recognised can be said; what is said wrongly is refused."""
    path = write(tmp_path, ["Begin,First,Top,Bottom,Final,Coins", *GOOD[1:]])
    named = {"time": "Begin", "open": "First", "high": "Top", "low": "Bottom", "close": "Final", "volume": "Coins"}
    assert Bars.from_csv(path, columns=named).fingerprint == Bars.from_csv(write(tmp_path, GOOD)).fingerprint
    with pytest.raises(BadData, match="columns= says that close is 'Last', but the columns are 'Time', 'Open'"):
        Bars.from_csv(write(tmp_path, GOOD), columns={"close": "Last"})
    with pytest.raises(ConfigError, match="columns= names price; it can name time, open"):
        Bars.from_csv(write(tmp_path, GOOD), columns={"price": "Close"})


def test_missing_volume_is_zero_and_said(tmp_path: Path) -> None:
    """Prices without volume are usable, and the user knows."""
    bars = Bars.from_csv(write(tmp_path, [line.rsplit(",", 1)[0] for line in GOOD]))
    assert only(bars).volume.tolist() == [0, 0, 0, 0]
    assert bars.warnings == ("AAPL.csv: there is no volume column, so every volume is zero; columns= can name one",)


def replaced(row: int, old: str, new: str) -> list[str]:
    """The good file with a change in one row, counted as an editor does."""
    lines = list(GOOD)
    assert old in lines[row - 1]
    lines[row - 1] = lines[row - 1].replace(old, new, 1)
    return lines


@pytest.mark.parametrize(
    ("row", "old", "new", "message"),
    [
        (4, "10.60", "10.00", r"row 4 (2024-01-02 10:00): high 10.00 is below low 10.10; correct the data, or pass on_bad"),
        (3, "10.25", "10.80", "row 3 (2024-01-02 09:45): open 10.80 is above high 10.75"),
        (5, "10.30", "9.30", "row 5 (2024-01-02 10:15): close 9.30 is below low 10.05"),
        (3, "10.20", "0", "row 3 (2024-01-02 09:45): low is 0; a price must be above zero"),
        (3, "10.20", "-10.20", "row 3 (2024-01-02 09:45): low is -10.20; a price must be above zero"),
        (4, "10.15", "n/a", "row 4 (2024-01-02 10:00): close is n/a, not a number"),
        (4, "10.15", "abc", "row 4 (2024-01-02 10:00): close is abc, not a number"),
        (4, "10.15", "inf", "row 4 (2024-01-02 10:00): close is inf, not a number"),
        (4, "10.15", "", "row 4 (2024-01-02 10:00): close is empty"),
        (5, ",400", "", "row 5 (2024-01-02 10:15): volume is empty"),
        (5, "400", "-4", "row 5 (2024-01-02 10:15): volume -4 is below zero"),
        (4, "10:00:00", "09:45:00", "row 4 (2024-01-02 09:45): the time 2024-01-02 09:45 was there before"),
        (4, "10:00:00", "09:40:00", "row 4 (2024-01-02 09:40): the time goes back, 2024-01-02 09:45 was there before"),
        (4, "2024-01-02 10:00:00", "soon", "row 4: time 'soon' cannot be read; if it is right, time_format="),
        (2, "2024-01-02 09:30:00", "soon", "row 2: time 'soon' cannot be read"),
        (4, "2024-01-02 10:00:00", "", "row 4: time is empty"),
        (4, "2024-01-02 10:00:00", "2024-13-02 10:00:00", "row 4: time '2024-13-02 10:00:00' cannot be read"),
        (4, "2024-01-02", "2205-01-02", "row 4 (7416007200000000 microseconds since 1970): the time is not between the years"),
        (4, "10.60", "10.60,10.70,1", "row 4: there are 8 values where the header has 6 names"),
        (4, "10.60", "10.60,10.70", "row 4: there are more values than the header has names (6)"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: int, old: str, new: str, message: str) -> None:
    """The message has the file, the row as an editor counts it, and the value as it is written."""
    with pytest.raises(BadData) as caught:
        Bars.from_csv(write(tmp_path, replaced(row, old, new)))
    assert str(caught.value).startswith(f"AAPL.csv, {message}")


def test_rows_are_counted_through_blank_lines(tmp_path: Path) -> None:
    """A blank line is a line of the editor as well."""
    lines = replaced(4, "10.60", "10.00")
    with pytest.raises(BadData, match="row 6 "):
        Bars.from_csv(write(tmp_path, ["", *lines[:2], "", *lines[2:]]))


def test_the_first_bad_row_is_named_and_the_rest_counted(tmp_path: Path) -> None:
    """Of several problems the first row counts, and how many rows share its problem."""
    lines = replaced(4, "10.60", "10.00")
    lines[2] = lines[2].replace("10.20", "-1")
    lines[4] = lines[4].replace("10.05", "-1")
    with pytest.raises(BadData, match=r"row 3 .*low is -1; .* \(2 rows have a price that is not above zero\)"):
        Bars.from_csv(write(tmp_path, lines))


def test_newest_first_says_so(tmp_path: Path) -> None:
    """Files that run backwards are frequent; nothing is turned around silently."""
    with pytest.raises(BadData, match=r"row 3 .*newest first: sort them by time.*3 rows"):
        Bars.from_csv(write(tmp_path, [GOOD[0], *reversed(GOOD[1:])]))


def test_bad_rows_are_left_out_only_when_asked_and_each_is_told_of(tmp_path: Path) -> None:
    """`on_bad="drop"` says what it left out, kind by kind."""
    lines = [
        *GOOD,
        "2024-01-02 10:20:00,10.0,9.0,9.5,9.2,1",
        "2024-01-02 10:15:00,10.0,11.0,9.5,9.7,1",
        "never,10.0,11.0,9.5,9.7,1",
        "2024-01-02 10:30:00,10.0,11.0,nan,9.7,1",
        "2024-01-02 10:30:00,10.0,11.0,9.5,9.7,1",
        "2205-01-02 10:45:00,10.0,11.0,9.5,9.7,1",
        "2024-01-02 10:45:00,10.0,11.0,9.5,9.7,1",
        "2024-01-02 10:00:00,10.0,11.0,9.5,9.7,1",
        "2024-01-02 10:30:00,10.0,11.0,9.5,9.7,1",
    ]
    bars = Bars.from_csv(write(tmp_path, lines), on_bad="drop")
    assert len(only(bars)) == 6
    assert bars.warnings == (
        "AAPL.csv: left out 1 row (row 8) with a time that cannot be read",
        "AAPL.csv: left out 1 row (row 11) with a time out of reach",
        "AAPL.csv: left out 1 row (row 9) with a value that is no number",
        "AAPL.csv: left out 1 row (row 6) with high below low",
        "AAPL.csv: left out 1 row (row 7) with a repeated time",
        "AAPL.csv: left out 2 rows (row 13 first) with a time before one above",
    )
    with pytest.raises(BadData, match=r"on_bad='drop' leaves no row; .*left out 4 rows"):
        Bars.from_csv(write(tmp_path, [GOOD[0], *["x" + line for line in GOOD[1:]]]), on_bad="drop")
    with pytest.raises(ConfigError, match="on_bad='ignore'"):
        Bars.from_csv(write(tmp_path, GOOD), on_bad="ignore")  # type: ignore[arg-type]


@given(st.integers(1, 4), st.sampled_from(["open", "high", "low", "close"]), st.sampled_from(["nan", "-1", "0", "x", ""]))
@settings(deadline=None, max_examples=40)
def test_no_bad_price_gets_through_anywhere(tmp_path_factory: pytest.TempPathFactory, row: int, field: str, value: str) -> None:
    """Wherever a price is spoilt, its row is named, and dropping it leaves the others untouched."""
    place = GOOD[0].lower().split(",").index(field)
    lines = [line.split(",") for line in GOOD]
    lines[row][place] = value
    path = write(tmp_path_factory.mktemp("bad"), [",".join(line) for line in lines])
    with pytest.raises(BadData, match=f"AAPL.csv, row {row + 1} .*{field} is "):
        Bars.from_csv(path)
    kept = only(Bars.from_csv(path, on_bad="drop")).volume.tolist()
    assert kept == [100.0 * i for i in range(1, 5) if i != row]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"  \n\n", "the file is empty"),
        (GOOD[0].encode(), "a header row and nothing below it"),
        (GOOD[0].encode() + b"\n\n\n", "a header row and nothing below it"),
        ("\n".join(GOOD[:2]).encode(), r"one bar does not say how long it lasts; give interval="),
        ("\n".join(GOOD[1:]).encode(), "there is no header row, the first row is '2024-01-02 09:30:00', '10.00'"),
        (b"Open,High,Low,Close\n1,1,1,1\n", "no column for time among 'Open', 'High'.*columns="),
        (b"Time,Open,High,Low,Adj Close\n1,1,1,1,1\n", "no column for close among .*'adj close' is not the close"),
        (b"Time,Open,High,Low,Close,open\n1,1,1,1,1,1\n", "2 columns are called 'Open'; keep one"),
        (b"hello world\n", "row 1: no tab, comma, semicolon or pipe separates the columns in 'hello world'"),
        (bytes(range(256)) * 4, "row 2: this is no UTF-8 text"),
        (b"Time,Open\n1,\x00\n", "row 2: this is no UTF-8 text"),
        (b"Time,Open\n1,\xff\n", "row 2: this is no UTF-8 text"),
        (gzip.compress("\n".join(GOOD).encode() * 50, mtime=0)[:-20], "the gzip file is damaged or cut off"),
        (gzip.compress("\n".join(GOOD).encode() * 50, mtime=0)[:60], "the gzip file is damaged or cut off"),
        (b"\x1f\x8bnonsense" * 9, "the gzip file is damaged or cut off"),
        (("\n".join([GOOD[0], '"2024', *GOOD[1:]])).encode(), "stray quotation mark"),
        (
            ("\n".join([GOOD[0], *[line + ",1,2" for line in GOOD[1:]]])).encode(),
            r"more values than the header has names \(6\)",
        ),
    ],
)
def test_an_unusable_file_is_named_with_a_cause(tmp_path: Path, data: bytes, message: str) -> None:
    """Each says what is wrong with which file, and none falls through as another library's error."""
    path = tmp_path / "AAPL.csv"
    path.write_bytes(data)
    with pytest.raises(BadData, match=f"^AAPL.csv.*{message}"):
        Bars.from_csv(path)


@given(st.data())
@settings(deadline=None, max_examples=80)
def test_no_file_falls_through_as_the_error_of_another_library(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever is cut out of a file or put into it, it is read or refused by name."""
    text = "\n".join(GOOD).encode()
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, min(len(text), begin + 40)))
    pieces = st.lists(
        st.sampled_from([b",", b"\n", b'"', b";", b"-", b".", b"9", b" ", b"e", b"Z", b"+05:00", b"\t", b"\r", b"x"])
    )
    path = tmp_path_factory.mktemp("odd") / "AAPL.csv"
    path.write_bytes(text[:begin] + b"".join(data.draw(pieces)) + text[end:])
    told = ""
    try:
        told = Bars.from_csv(path).source
    except BadData as error:
        told = str(error)
    assert "AAPL.csv" in told


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    """A missing file, a directory, an extension that says nothing, a file that is not Parquet."""
    with pytest.raises(BadData, match=r"nowhere\.csv: there is no such file; check the path \(it was looked up from /"):
        Bars.from_csv("nowhere.csv")
    with pytest.raises(BadData, match="it is a directory; give one of the files in it"):
        Bars.from_csv(tmp_path)
    with pytest.raises(BadData, match=r"bars.xlsx: its extension names no format"):
        Bars.from_file(tmp_path / "bars.xlsx")
    with pytest.raises(BadData, match=r"AAPL.parquet: it is not a whole Parquet file"):
        Bars.from_file(write(tmp_path, GOOD, "AAPL.parquet"))


def test_one_row_is_enough_with_an_interval(tmp_path: Path) -> None:
    """What the file cannot say, the user can."""
    bars = Bars.from_csv(write(tmp_path, GOOD[:2]), interval=timedelta(days=1), tick_size="0.05", currency="EUR")
    assert only(bars).interval == timedelta(days=1)
    assert bars.instruments[0].tick_size == Decimal("0.05")
    assert bars.instruments[0].currency == "EUR"


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("AAPL_15m.csv.gz", "AAPL"),
        ("BTC-USD.csv", "BTC-USD"),
        ("BTC_USDT-1h.tsv", "BTC_USDT"),
        ("EURUSD_4h.txt", "EURUSD"),
        ("ES 2024-01-02.csv", "ES"),
        ("BRK.B_daily.csv", "BRK.B"),
        ("XAUUSD_M15_202001.csv", "XAUUSD"),
    ],
)
def test_the_symbol_is_in_the_name(tmp_path: Path, name: str, symbol: str) -> None:
    """What names the interval or a date is no part of the symbol."""
    path = write(tmp_path, GOOD, name)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    assert Bars.from_file(path).instruments[0].symbol == symbol


@pytest.mark.parametrize(
    ("prices", "tick"),
    [
        (["1.36052", "1.36256", "1.3594", "1.35985"], "0.00001"),
        (["25584", "25591.5", "25551.7", "25563.7"], "0.1"),
        (["4515.664000000001", "4515.847", "4515.513999999999", "4515.8"], "0.001"),
        (["104.05999755859375", "104.12999725341797", "103.98999786376953", "104.0999984741211"], "0.01"),
        (["1.123456789012345", "1.2234567890123", "1.1", "1.15"], "0.00000001"),
        (["17", "18", "16", "17"], "1"),
        (["1e-05", "2e-05", "1e-05", "2e-05"], "0.00001"),
    ],
)
def test_the_tick_is_what_the_decimals_say(tmp_path: Path, prices: list[str], tick: str) -> None:
    """Noise of floating point makes no tick, and no tick is finer than eight decimals."""
    numbers = [prices[0], max(prices, key=float), min(prices, key=float), prices[3]]
    lines = ["Time,Open,High,Low,Close"] + [f"2024-01-0{day},{','.join(numbers)}" for day in range(1, 6)]
    path = write(tmp_path, lines)
    assert Bars.from_csv(path).instruments[0].tick_size == Decimal(tick)
    index = pd.date_range("2024-01-01", periods=5)
    frame = pd.DataFrame(dict(zip(("open", "high", "low", "close"), map(float, numbers), strict=True)), index=index)
    assert Bars.from_frame(frame, "X").instruments[0].tick_size == Decimal(tick)


def test_a_few_odd_prices_do_not_make_the_tick_finer(tmp_path: Path) -> None:
    """One print between the ticks is an exception."""
    lines = ["Time,Open,High,Low,Close"] + [f"2024-01-{day:02},10.10,10.50,10.00,10.25" for day in range(1, 29)]
    lines[5] = lines[5].replace("10.25", "10.2513")
    assert Bars.from_csv(write(tmp_path, lines)).instruments[0].tick_size == Decimal("0.01")


def test_the_interval_is_the_most_common_distance(tmp_path: Path) -> None:
    """Nights, a missing bar and one that comes early do not count."""
    times = ["01-02 09:25", "01-02 09:30", "01-02 09:45", "01-02 10:15", "01-03 09:30", "01-03 09:45"]
    lines = ["Time,Open,High,Low,Close"] + [f"2024-{time},1.1,1.2,1.0,1.1" for time in times]
    assert only(Bars.from_csv(write(tmp_path, lines))).interval == timedelta(minutes=15)


def frame_of(bars: Bars) -> pd.DataFrame:
    """The bars as pandas users hold them."""
    c = only(bars)
    index = pd.DatetimeIndex(c.start.astype("datetime64[us]"), name="Date").tz_localize("UTC")
    return pd.DataFrame({"Open": c.open, "High": c.high, "Low": c.low, "Close": c.close, "Volume": c.volume}, index=index)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_frames_and_files_give_the_same_bars(tmp_path: Path, unit: Any) -> None:
    """CSV, TSV, Parquet and DataFrames hold the same bytes, at every resolution of pandas."""
    bars = SimulatedMarket("SIM", bars=300, seed=3)
    frame = frame_of(bars)
    frame.index = pd.DatetimeIndex(frame.index).as_unit(unit)
    frame.to_csv(tmp_path / "SIM.csv")
    frame.to_csv(tmp_path / "SIM.tsv.gz", sep="\t")
    frame.to_parquet(tmp_path / "SIM.parquet")
    frame.reset_index().to_parquet(tmp_path / "SIM_15m.parquet", index=False)
    for name in ("SIM.csv", "SIM.tsv.gz", "SIM.parquet", "SIM_15m.parquet"):
        read = Bars.from_file(tmp_path / name)
        assert read.fingerprint == bars.fingerprint, name
        assert read.instruments == bars.instruments, name
    assert Bars.from_frame(frame, "SIM").fingerprint == bars.fingerprint
    assert Bars.from_frame(frame.reset_index(), "SIM").fingerprint == bars.fingerprint
    assert Bars.from_parquet(tmp_path / "SIM.parquet", "OTHER").instruments[0].symbol == "OTHER"


def test_a_frame_is_copied() -> None:
    """What happens to the DataFrame later does not happen to the feed."""
    frame = frame_of(SimulatedMarket(bars=20))
    bars = Bars.from_frame(frame, "SIM")
    before = only(bars).close.copy()
    frame.iloc[:3, 3] = 1.0
    assert np.array_equal(only(bars).close, before)


def test_a_frame_of_several_instruments_gives_the_one_that_is_named() -> None:
    """Downloads of several instruments have columns of two levels, in either order."""
    frame = frame_of(SimulatedMarket(bars=20))
    both = pd.concat({"SIM": frame, "OTHER": frame * 2}, axis=1)
    expected = Bars.from_frame(frame, "SIM").fingerprint
    assert Bars.from_frame(both, "SIM").fingerprint == expected
    assert Bars.from_frame(both.swaplevel(axis=1), "SIM").fingerprint == expected
    with pytest.raises(BadData, match="columns have 2 levels and none names AAPL"):
        Bars.from_frame(both, "AAPL")


def test_a_bad_frame_is_named_with_its_position() -> None:
    """Positions are those of `iloc`."""
    frame = frame_of(SimulatedMarket(bars=20))
    frame.iloc[7, 1] = np.nan
    with pytest.raises(BadData, match=r"DataFrame of SIM, iloc 7 \(2024-01-02 16:15\): high is empty"):
        Bars.from_frame(frame, "SIM")
    with pytest.raises(BadData, match="DataFrame of SIM: it is empty"):
        Bars.from_frame(frame.iloc[:0], "SIM")
    with pytest.raises(BadData, match="DataFrame of SIM: no column for close among 'Date', 'Open'"):
        Bars.from_frame(frame.drop(columns="Close"), "SIM")


def test_numbers_of_other_types_are_numbers() -> None:
    """Integers, nullable columns and decimals from a database are read as what they are."""
    frame = pd.DataFrame(
        {
            "time": pd.date_range("2024-01-01", periods=3, tz="UTC"),
            "open": pd.array([10, 11, 12], dtype="Int64"),
            "high": [Decimal("13.5")] * 3,
            "low": np.array([9, 9, 9], dtype=np.int16),
            "close": np.array([10.5, 11.5, 12.5], dtype=np.float32),
        }
    )
    assert only(Bars.from_frame(frame, "X")).high.tolist() == [13.5] * 3
    frame.loc[1, "open"] = pd.NA
    with pytest.raises(BadData, match=r"iloc 1 .*open is empty"):
        Bars.from_frame(frame, "X")
