"""YAML read strictly: as UTF-8, and every key once."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from dmf.errors import DmfError
from dmf.files import read_text


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice; YAML's own keeps the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag.endswith(":merge"):
                continue  # `<<` may stand beside others; other keys are refused below
            key, line = self.construct_object(key_node), key_node.start_mark.line + 1
            if key in lines:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} is given twice, in lines {lines[key]} and {line}: "
                    "keep one of them"
                )
            lines[key] = line
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, remedy: str = "Save it as UTF-8.") -> Any:
    """Return what a YAML file holds; raises DmfError naming the file and the reason."""
    text = read_text(path, remedy)
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise DmfError(f"{path} is not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise DmfError(f"{path} is not valid YAML: {error}") from None
