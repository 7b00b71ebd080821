"""The Kubernetes manifests, put together as ``kubectl apply --kustomize`` does, as far as this project uses that."""

from pathlib import Path
from typing import Any

import yaml

from tests.support.antiphon import ROOT

Manifest = dict[str, Any]

BASE = ROOT / "deploy" / "kubernetes" / "base"
OVERLAYS = ROOT / "deploy" / "kubernetes" / "overlays"
_KEYS = ("name", "mountPath")
"""By what strategic merge patches tell the members of lists apart here."""


def overlay(name: str) -> list[Manifest]:
    """All objects of an overlay: base, own resources and patches, with the images that its kustomizations name."""
    folder = OVERLAYS / name
    base, own = _documents(BASE / "kustomization.yaml")[0], _documents(folder / "kustomization.yaml")[0]
    assert {"images", "resources", "labels"} >= base.keys() - {"apiVersion", "kind"}
    assert {"images", "resources", "patches", "namespace"} >= own.keys() - {"apiVersion", "kind"}
    objects = [document for file in base["resources"] for document in _documents(BASE / file)]
    _set_images(objects, base["images"])
    objects += [
        document
        for file in own["resources"]
        if (folder / file).resolve() != BASE
        for document in _documents(folder / file)
    ]
    for patch in own["patches"]:
        for change in _documents(folder / patch["path"]):
            (target,) = (one for one in objects if _identity(one) == _identity(change))
            target.update(merged(target, change))
    _set_images(objects, own.get("images", []))
    for one in objects:
        one["metadata"]["namespace"] = own["namespace"]
    return objects


def merged(old: Any, new: Any) -> Any:
    """A strategic merge: null removes, members of lists with the same key are merged, other lists are replaced."""
    if isinstance(old, dict) and isinstance(new, dict):
        both = {
            name: merged(old[name], new[name]) if name in old else new[name] for name in new if new[name] is not None
        }
        return {name: value for name, value in old.items() if name not in new} | both
    if isinstance(old, list) and isinstance(new, list) and _key(old) and _key(old) == _key(new):
        key = _key(old)
        changes = {member[key]: member for member in new}
        kept = [merged(member, changes.pop(member[key], {})) for member in old]
        return kept + list(changes.values())
    return new


def _key(members: list[Any]) -> str | None:
    candidates = (key for key in reversed(_KEYS) if all(isinstance(m, dict) and key in m for m in members))
    return next(candidates, None)


def _set_images(objects: list[Manifest], images: list[dict[str, str]]) -> None:
    for one in objects:
        for container in containers(one):
            for image in images:
                if container["image"].partition(":")[0] == image["name"]:
                    container["image"] = f"{image.get('newName', image['name'])}:{image['newTag']}"


def containers(one: Manifest) -> list[Manifest]:
    """The containers of a workload; of anything else, none."""
    found: list[Manifest] = one.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
    return found


def _identity(one: Manifest) -> tuple[str, str]:
    return one["kind"], one["metadata"]["name"]


def _documents(path: Path) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]
