"""Whether what an objective needs is there, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from krona_ops.errors import ConfigError, DataError
from krona_ops.shown import shown

from ..backbone.protocol import Backbone
from ..batches.examples import Group, Item
from .protocol import Objective


def require_needs(objective: Objective, backbone: Backbone, items: Sequence[Item | Group]) -> None:
    """Refuse a training whose data or model lack what its objective needs.

    Raises:
        DataError: There are only prompts where pictures are needed, or no groups where these are; or there are masks
            where no picture is looked at.
        ConfigError: The model has no condition without a prompt, or no decoder.
    """
    needs, kind = objective.needs, objective.name
    examples = [e for item in items for member in members_of(item) for e in (*member.forms, *member.uncaptioned)]
    bare = next((example for example in examples if example.latent is None), None)
    require_pictures(objective, None if bare is None else bare.caption)
    if "groups" in needs and not all(isinstance(item, Group) for item in items):
        raise DataError(
            f"The objective {kind} needs groups of pictures.",
            found="pictures that stand alone",
            expected="groups, such as a folder for each subject",
            remedy="Sort the pictures into folders, or choose another objective.",
        )
    if "pictures" not in needs and (masked := next((e for e in examples if e.mask is not None), None)) is not None:
        raise DataError(
            f"The objective {kind} learns from prompts alone, so that a mask would do nothing.",
            found=f'"{shown(masked.caption, 60)}" with a mask',
            expected="no masks",
            remedy="Set data.masks to false.",
        )
    if "drawings" in needs and (undrawn := next((e for e in examples if e.seen is None), None)) is not None:
        raise DataError(
            f"The objective {kind} needs what the model saw when it drew the prompts.",
            found=f'"{shown(undrawn.caption, 60)}", which was not drawn',
            expected="drawings of the prompts",
            remedy="Train on the host's model, which draws them first.",
        )
    if "unconditional" in needs and not backbone.has_unconditional:
        raise ConfigError(
            f"The objective {kind} needs what the model makes of an empty prompt.",
            found="no encoded empty prompt",
            expected="one",
            remedy="Connect the text encoder.",
        )
    if "decoder" in needs and not backbone.has_decoder:
        raise ConfigError(
            f"The objective {kind} looks at pixels.",
            found="no VAE",
            expected="a VAE",
            remedy="Connect the model's VAE.",
        )


def require_pictures(objective: Objective, prompt: str | None) -> None:
    """Refuse a prompt without a picture where the objective needs pictures.

    Args:
        prompt: The first one; ``None`` where there are pictures.

    Raises:
        DataError: There is one.
    """
    if prompt is not None and "pictures" in objective.needs:
        raise DataError(
            f"This data set has prompts and no pictures; the objective {objective.name} needs pictures.",
            found=f'"{shown(prompt, 60)}" without a picture',
            expected="a picture for each caption",
            remedy="Train with a data set of pictures, such as KronA Dataset gives, or choose an objective that learns "
            "from prompts.",
        )


def members_of(item: Item | Group) -> Sequence[Item]:
    """The items of a group; an item alone is one."""
    return item.members if isinstance(item, Group) else (item,)
