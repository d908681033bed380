"""Every upsampler in every model of the paper's tables."""

from dataclasses import asdict, dataclass

from tools.tables.counts import HOSTS, added_macs, count
from tools.tables.verdicts import JUDGES, read_published, row_name
from upsamplers import NAMES


@dataclass(frozen=True)
class GridRow:
    """An upsampler in a model: its parameters (see `Counts`) and its MACs.

    paper_params, paper_macs: as the paper prints them, None where it prints nothing.
    """

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
    """Every upsampler in one model. table, variant: keys of `HOSTS`."""
    host, columns, rows = HOSTS[table][variant], read_published().get(table, {}), []
    for upsampler in NAMES:
        params, macs = (columns.get(column, {}).get(row_name(variant, upsampler)) for column in JUDGES)
        counts = asdict(count(host, upsampler)) | {"macs": added_macs(host, upsampler)}
        rows.append(GridRow(table, host.title, upsampler, paper_params=params, paper_macs=macs, **counts))
    return rows
