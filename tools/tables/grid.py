"""Every upsampler in every model of the paper's tables."""

from dataclasses import asdict, dataclass

from tools.tables.counts import (
    HOSTS,
    added_macs,
    count,
)
from tools.tables.verdicts import JUDGES, _row, published
from upsamplers import PAPER_NAMES


@dataclass(frozen=True)
class GridRow:
    """An upsampler in a model: as `Counts`, and MACs. paper_..: as printed, None where the paper prints nothing."""

    table: int
    model: str
    upsampler: str
    paper_params: str | None
    added: int
    weights: int
    paper_macs: str | None
    macs: int
    total: int
    trainable: int


def grid(table: int, variant: str) -> list[GridRow]:
    """Every upsampler in one model, a key of `HOSTS`."""
    host, columns, rows = HOSTS[table][variant], published().get(table, {}), []
    for upsampler in PAPER_NAMES:
        params, macs = (columns.get(column, {}).get(_row(variant, upsampler)) for column in JUDGES)
        counts = asdict(count(host, upsampler)) | {"macs": added_macs(host, upsampler)}
        rows.append(GridRow(table, host.title, upsampler, paper_params=params, paper_macs=macs, **counts))
    return rows
