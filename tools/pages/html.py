"""The parts that all pages share: their beginning and end, pictures, tables and bars, as HTML."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

from errors import UserError
from storage import write_text
from structures import Size

STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
LONGEST_SIDE, QUALITY = 640, 82  # of the JPEGs: pixels, and OpenCV's scale to 100


def start(title: str) -> str:
    """The page up to its heading. title: plain text."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
    )


def end(command: str, remark: str = "") -> str:
    """The rest of the page. command: what made it."""
    return f"<footer>{escape(remark)} Made by <code>python -m {command}</code>.</footer></main></body></html>"


def breakable(text: str) -> str:
    """A path or name that may break after slashes and underscores."""
    return escape(text).replace("/", "/<wbr>").replace("_", "_<wbr>")


def encode(picture: np.ndarray, longest_side: int = LONGEST_SIDE) -> tuple[str, Size]:
    """An RGB picture [H, W, 3] uint8 as a JPEG of at most `longest_side`, in base64, and its (height, width)."""
    scale = longest_side / max(picture.shape[:2])
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return base64.b64encode(data.tobytes()).decode(), (picture.shape[0], picture.shape[1])


def card(picture: np.ndarray, number: int, why: str, name: str, longest_side: int = LONGEST_SIDE) -> str:
    """A picture that a click enlarges, with why it is shown and its name. number: unique on the page."""
    jpeg, (height, width) = encode(picture, longest_side)
    image = f'<img src="data:image/jpeg;base64,{jpeg}" width="{width}" height="{height}" alt="{escape(name)}">'
    file = f'<p class="file">{breakable(name)}</p>' if name != why else ""
    return (
        f'<figure class="card" id="picture{number}"><a href="#picture{number}">{image}</a><figcaption>'
        f'<p class="why">{escape(why)}</p>{file}</figcaption>'
        '<a class="close" href="#_" aria-label="close"></a></figure>'
    )


def figure(title: str, content: str) -> str:
    """A chart in a frame, with its title above. content: HTML."""
    return f"<figure><figcaption>{escape(title)}</figcaption>{content}</figure>"


def lead(text: str) -> str:
    """What a reader should know before the table or chart that follows."""
    return f'<p class="lead">{escape(text)}</p>'


def note(text: str) -> str:
    """A remark."""
    return f'<p class="note">{escape(text)}</p>'


def fold(title: str, content: str) -> str:
    """HTML that is shown after a click on its title."""
    return f'<details class="group more"><summary>{escape(title)}</summary>{content}</details>'


def charts(figures: Iterable[str]) -> str:
    """Figures side by side."""
    return f'<div class="charts">{"".join(figures)}</div>'


def tile(title: str, big: str, lines: Iterable[str] = ()) -> str:
    """A box with one large number or word, and lines that explain it."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<section class="tile"><h3>{escape(title)}</h3><p class="big">{escape(big)}</p><ul>{items}</ul></section>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column names the rows. heads: plain text. rows: cells as HTML."""
    body = "".join(
        f"<tr><th>{first}</th>{''.join(f'<td>{cell}</td>' for cell in others)}</tr>" for first, *others in rows
    )
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return (
        f'<div class="scroll"><table class="classes numbers"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def number(value: float | None, form: str = "{:.1f}") -> str:
    """A number as text; a dash for None and NaN."""
    return "–" if value is None or value != value else form.format(value)


def bar(value: float | None, longest: float, text: str, title: str = "", colour: str = "val") -> str:
    """A bar as long as value / longest, with its text. title: what is shown where the pointer rests."""
    share = 0.0 if value is None or value != value or longest <= 0 else min(max(value / longest, 0.0), 1.0)
    length = f'<b class="{colour}" style="width:{100 * share:.2f}%"></b>' if share else ""
    return f'<div class="bar" title="{escape(title or text)}"><span>{length}</span>{escape(text)}</div>'


def write_page(path: Path, parts: Iterable[str]) -> None:
    """Write a page; a page that is there already is kept until the new one is whole. Raises UserError."""
    try:
        write_text(path, "".join(parts))
    except OSError as error:
        raise UserError(path, f"cannot be written ({error.strerror})", "free space or choose another file") from None
