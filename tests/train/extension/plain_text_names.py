"""A file format that the pack does not have: each update of two factors, under names of its own."""

from krona_ops import Adapter, LayerName
from krona_ops.updates.delta import Matrix
from krona_ops.updates.factor import LowRank

NAME = "outer"
_ENDS = (":column", ":row")


def sniff(header):
    return all(key.endswith(_ENDS) for key in header.shapes)


def read(tensors, header, rule="auto"):
    names = dict.fromkeys(key.rpartition(":")[0] for key in tensors)
    layers = {LayerName(n): Matrix(LowRank(tensors[f"{n}:column"][:, None], tensors[f"{n}:row"][None])) for n in names}
    return Adapter(layers, header.metadata)


def write(adapter, rename=str):
    found = {}
    for name, delta in adapter.layers.items():
        found |= {
            f"{rename(name)}:column": delta.factor.up[:, 0].contiguous(),
            f"{rename(name)}:row": delta.factor.down[0].contiguous(),
        }
    return found
