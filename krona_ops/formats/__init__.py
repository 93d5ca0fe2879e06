"""Adapter file formats: one module each with ``NAME``, and ``sniff`` and ``read``, or ``write``,
or all of them; `registry` lists them.

Within a file each layer is read by its own method (`krona_ops.formats.kinds`), so files that mix LoKr, LoRA and
differences are read too. Nothing is imported here: whoever wants a header does not wait for ten formats.
"""
