#!/usr/bin/env python3
"""Rebuilds the provider schemas that the suite checks the modules with.

    terraform/schema/update.py [FOLDER]

FOLDER (default: target/terraform-schemas) keeps the packages, about 300 MB. The schemas come from prebuilt CDK bindings
(MPL-2.0), which name every argument of a provider with its kind: nothing of theirs is kept but the names, kinds and flags
of the types that `*.tf` here use. Needs pip and npm; not needed to build or test anything.
"""

import base64
import glob
import json
import pathlib
import re
import subprocess
import sys
import tarfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent

# File, provider, package and its version. One of the oldest and one of the newest that the modules allow, where they differ.
PACKAGES = [
    ("aws-6.69", "aws", "pip", "cdktn-provider-aws", "25.8.1"),
    ("google-7.38", "google", "pip", "cdktn-provider-google", "19.7.0"),
    ("google-8.7", "google", "pip", "cdktn-provider-google", "21.1.0"),
    ("azurerm-4.73", "azurerm", "npm", "@cdktn/provider-azurerm", "16.1.0"),
    ("azurerm-5.10", "azurerm", "pip", "cdktn-provider-azurerm", "18.9.0"),
]

SCALARS = {"string": "string", "boolean": "bool", "number": "number", "any": "dynamic"}


def fetch(folder, kind, package, version):
    """The package's archive of bindings."""
    if kind == "npm":
        stem = package.lstrip("@").replace("/", "-")
        path = folder / f"{stem}-{version}.tgz"
        if not path.exists():
            subprocess.run(["npm", "pack", "--silent", f"{package}@{version}"], cwd=folder, check=True)
        return tarfile.open(path)
    found = folder.glob(f"{package.replace('-', '_')}-{version}-*.whl")
    path = next(found, None)
    if path is None:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"{package}=={version}"], cwd=folder, check=True)
        path = next(folder.glob(f"{package.replace('-', '_')}-{version}-*.whl"))
    wheel = zipfile.ZipFile(path)
    inner = next(n for n in wheel.namelist() if n.endswith(".tgz"))
    return tarfile.open(fileobj=wheel.open(inner))


def used():
    """Types that the modules and examples name: {("resource", "aws_s3_bucket"), ...}."""
    found = set()
    for path in ROOT.rglob("*.tf"):
        found |= set(re.findall(r'^\s*(resource|data)\s+"(\w+)"', path.read_text(), re.M))
    return found


def source(text):
    """The TypeScript inside the source maps of a file of bindings: it holds the flags, which the JavaScript may lack."""
    maps = re.findall(r"sourceMappingURL=data:application/json;base64,(\S+)", text)
    return "\n".join(s for m in maps for s in json.loads(base64.b64decode(m))["sourcesContent"])


ENTRY = re.compile(
    r'"?(\w+)"?: \{\s*value: (.*?),\s*isBlock: (true|false),\s*type: "(\w+)",\s*storageClassType: "(\w+)",?\s*\}', re.S
)
FLAGS = re.compile(r"// (\w+) - computed: (\w+), optional: (\w+), required: (\w+)\s*\n(.*?)(?=// \w+ - computed|\Z)", re.S)


class Bindings:
    """One type's bindings."""

    def __init__(self, text):
        self.text = text
        self.classes = {}
        for part in re.split(r"(?=^export class )", text, flags=re.M):
            if m := re.match(r"export class (\w+)", part):
                self.classes[m[1]] = part

    def function(self, name):
        start = self.text.index(f"export function {name}(")
        return self.text[start : self.text.index("\n}\n", start)]

    def main(self):
        """The class of the type itself, and its Terraform name."""
        for name, body in self.classes.items():
            if m := re.search(r'tfResourceType = "(\w+)"', body):
                return name, m[1]
        raise ValueError("no class of a type")

    def block(self, class_name, synthesis):
        """Arguments and blocks of one level."""
        flags = {}
        kinds = {}
        for name, computed, optional, required, rest in FLAGS.findall(self.classes.get(class_name, "")):
            flags[name] = "".join(
                letter for letter, on in (("r", required), ("o", optional), ("c", computed)) if on == "true"
            )
            kinds[name] = rest
        attributes, blocks = {}, {}
        for name, value, is_block, kind, storage in ENTRY.findall(synthesis):
            flag = flags.get(name, "o")
            if name == "timeouts":
                continue
            inner = re.search(r"(\w+)ToHclTerraform\b(?!.*ToHclTerraform)", value, re.S)
            if is_block == "true" and inner and not inner[1] in ("string", "boolean", "number", "any"):
                many = "Mapper" in value
                struct = inner[1]
                upper = struct[0].upper() + struct[1:]
                nested = self.block(f"{upper}OutputReference", self.function(f"{struct}ToHclTerraform"))
                nesting = {"struct": "single", "list": "list", "set": "set", "map": "map"}[kind]
                if flag == "oc" or flag == "c" or (kind == "map"):
                    # An attribute that is written like a block.
                    attributes[name] = [self.nested_type(nested, nesting, many), flag]
                    continue
                blocks[name] = {
                    "nesting": nesting,
                    "min": 1 if "r" in flag and nesting != "single" else 0,
                    "max": 0 if many or nesting == "single" else 1,
                    **nested,
                }
            else:
                attributes[name] = [self.simple(kind, storage), flag]
        for name, rest in kinds.items():
            if name not in attributes and name not in blocks and name != "timeouts":
                # What only the provider sets. Lists of objects are left out: nothing here reads one.
                got = re.search(r"\{\s*return (.*?);", rest, re.S)
                if got and (kind := self.getter(got[1])):
                    attributes[name] = [kind, flags[name]]
        return {"attributes": dict(sorted(attributes.items())), "blocks": dict(sorted(blocks.items()))}

    @staticmethod
    def nested_type(nested, nesting, many):
        """A block's content as the type of an attribute."""
        fields = {name: kind for name, (kind, _) in nested["attributes"].items()}
        for name, block in nested["blocks"].items():
            fields[name] = Bindings.nested_type(block, block["nesting"], True)
        return ["object", fields] if nesting == "single" else [nesting, ["object", fields]]

    @staticmethod
    def simple(kind, storage):
        if kind == "simple":
            return SCALARS[storage]
        if m := re.fullmatch(r"(\w+?)(List|Map)", storage):
            if m[1] in SCALARS:
                return [kind, SCALARS[m[1]]]
        return [kind, "dynamic"]

    @staticmethod
    def getter(text):
        for word, kind in (("String", "string"), ("Number", "number"), ("Boolean", "bool")):
            if text.startswith(f"this.get{word}Attribute("):
                return kind
            if text.startswith(f"this.get{word}MapAttribute("):
                return ["map", kind]
        if "getListAttribute(" in text:
            return ["set" if "tolist" in text else "list", "string"]
        return None


def schema(archive, provider, wanted):
    """The part of a provider's schema that is used, and the provider's version."""
    out = {"provider": None, "resources": {}, "data": {}}
    version = None
    for member in archive:
        m = re.fullmatch(r"package/lib/([\w-]+)/index\.js", member.name)
        if not m or m[1].startswith("ephemeral-"):
            continue
        kind = "data" if m[1].startswith(f"data-{provider}-") else "resource"
        guess = m[1].replace("-", "_").removeprefix(f"data_{provider}_")
        names = {name for k, name in wanted if k == kind}
        # Folders spell digits and words their own way: compare without joints.
        bare = lambda text: text.replace("_", "")
        if m[1] != "provider" and bare(f"{provider}_{guess}") not in {bare(n) for n in names}:
            continue
        bindings = Bindings(source(archive.extractfile(member).read().decode()))
        name, tf = bindings.main()
        body = bindings.classes[name]
        block = bindings.block(name, body[body.index("synthesizeHclAttributes") :])
        if m[1] == "provider":
            out["provider"] = block
            continue
        version = re.search(r"providerVersion: '([\d.]+)'", body)[1]
        out["resources" if kind == "resource" else "data"][tf] = block
    missing = {n for k, n in wanted if n.startswith(f"{provider}_")} - set(out["resources"]) - set(out["data"])
    return out, version, missing


def written(schema_):
    """JSON with one line for each type."""
    lines = []
    for key, value in schema_.items():
        if key in ("resources", "data"):
            rows = [f"    {json.dumps(n)}: {json.dumps(b, separators=(',', ':'))}" for n, b in sorted(value.items())]
            lines.append(f"  {json.dumps(key)}: {{\n" + ",\n".join(rows) + ("\n  }" if rows else "  }"))
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT.parent / "target" / "terraform-schemas")
    folder.mkdir(parents=True, exist_ok=True)
    for file, provider, kind, package, version in PACKAGES:
        found, of, missing = schema(fetch(folder, kind, package, version), provider, used())
        origin = f"{package} {version} ({'PyPI' if kind == 'pip' else 'npm'}), provider {provider} {of}, MPL-2.0"
        (HERE / f"{file}.json").write_text(written({"origin": origin, **found}))
        print(f"{file}: {len(found['resources'])} resources, {len(found['data'])} data, missing: {sorted(missing) or 'none'}")


if __name__ == "__main__":
    main()
