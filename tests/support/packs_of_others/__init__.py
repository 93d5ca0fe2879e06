"""Stand-ins for two packs that hand LORA_STACKs around: their conventions of rows, told from reading them, in code of our own.

efficiency (4579b7d): own rows first, then those that come in; a name is asked of the host's LoRA folders unless it is a full path; rows are kept
in sets. Lora-Manager (25e72b4): rows that come in first; a name is looked up without suffix in an index of the LoRA folders' files; what is
not there is opened as it is.
"""

import os

import comfy.sd
import comfy.utils
import folder_paths

ROW = {
    "lora_name": ("STRING", {"default": ""}),
    "strength_model": ("FLOAT", {"default": 1.0, "min": -10.0, "max": 10.0}),
    "strength_clip": ("FLOAT", {"default": 1.0, "min": -10.0, "max": 10.0}),
}


class _Node:
    CATEGORY = "stand-ins"
    FUNCTION = "run"


class _Stacker(_Node):
    RETURN_TYPES = ("LORA_STACK",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": ROW, "optional": {"lora_stack": ("LORA_STACK",)}}


class _Loader(_Node):
    RETURN_TYPES = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "lora_stack": ("LORA_STACK",)}}

    def run(self, model, lora_stack):
        for name, strength_model, strength_clip in lora_stack:
            tensors = comfy.utils.load_torch_file(self.find(name), safe_load=True)
            model, _ = comfy.sd.load_lora_for_models(model, None, tensors, strength_model, strength_clip)
        return (model,)


class EfficiencyStacker(_Stacker):
    def run(self, lora_name, strength_model, strength_clip, lora_stack=None):
        rows = [(lora_name, strength_model, strength_clip)] if lora_name else []
        return ([*rows, *(row for row in lora_stack or [] if row[0] != "None")],)


class EfficiencyLoader(_Loader):
    def run(self, model, lora_stack):
        rows = lora_stack.copy()
        assert len(set(rows)) == len(rows)
        return super().run(model, rows)

    def find(self, name):
        return name if os.path.isabs(name) else folder_paths.get_full_path("loras", name)


def index():
    found = {}
    for root in folder_paths.get_folder_paths("loras"):
        for folder, _, files in os.walk(root):
            for file in files:
                path = os.path.join(folder, file)
                name = os.path.splitext(os.path.relpath(path, root).replace(os.sep, "/"))[0]
                found.setdefault(name, (root, path))
    return found


class ManagerStacker(_Stacker):
    def run(self, lora_name, strength_model, strength_clip, lora_stack=None):
        rows = list(lora_stack or [])
        if lora_name:
            root, path = index()[lora_name]
            rows.append((os.path.relpath(path, root).replace("/", os.sep), strength_model, strength_clip))
        return (rows,)


class ManagerLoader(_Loader):
    def find(self, name):
        name = os.path.splitext(name.replace("\\", "/"))[0]
        return index().get(name, (None, name))[1]


NODE_CLASS_MAPPINGS = {
    f"StandIn{node.__name__}": node for node in (EfficiencyStacker, EfficiencyLoader, ManagerStacker, ManagerLoader)
}
