"""How one layer's update is stored, method by method: each module has ``PARTS``, ``read`` and,
where it writes, ``write``.

A file may mix them: LyCORIS presets use LoRA for some layers and LoKr for others,
ComfyUI's trainer adds biases as ``diff_b``.
"""
