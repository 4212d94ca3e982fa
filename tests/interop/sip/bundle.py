"""JsSIP as one script for a page: its modules as npm installed them, each wrapped in a function."""

import json
import re
from pathlib import Path

REQUIRE = re.compile(r"""\brequire\(['"]([^'"]+)['"]\)""")


def bundle(folder: Path, package: str, name: str) -> str:
    """The package and all that it requires from `node_modules` in `folder`, as the global `name`."""
    modules: dict[Path, str] = {}
    entry = _package(folder / "node_modules" / package)
    _collect(folder, entry, modules)
    numbers = {file: number for number, file in enumerate(modules)}
    wrapped = []
    for file, text in modules.items():
        found = {wanted: numbers[_find(folder, file, wanted)] for wanted in REQUIRE.findall(text)}
        body = f"module.exports = {text};" if file.suffix == ".json" else text
        wrapped.append(f"[{json.dumps(found)}, function (require, module, exports) {{\n{body}\n}}]")
    all_modules = ",\n".join(wrapped)
    return f"""\
window.{name} = ((modules) => {{
    const loaded = [];
    const load = (number) => {{
        if (loaded[number]) return loaded[number].exports;
        const module = (loaded[number] = {{ exports: {{}} }});
        const [found, run] = modules[number];
        run.call(module.exports, (wanted) => load(found[wanted]), module, module.exports);
        return module.exports;
    }};
    return load(0);
}})([{all_modules}]);
"""


def _collect(folder: Path, file: Path, modules: dict[Path, str]) -> None:
    if file in modules:
        return
    modules[file] = file.read_text()
    for wanted in REQUIRE.findall(modules[file]):
        _collect(folder, _find(folder, file, wanted), modules)


def _find(folder: Path, asking: Path, wanted: str) -> Path:
    return _file(asking.parent / wanted) if wanted.startswith(".") else _package(folder / "node_modules" / wanted)


def _package(folder: Path) -> Path:
    about = json.loads((folder / "package.json").read_text())
    browser = about.get("browser")
    return _file(folder / (browser if isinstance(browser, str) else about.get("main", "index.js")))


def _file(path: Path) -> Path:
    path = path.resolve()
    return next(file for file in (path, path.with_name(path.name + ".js"), path / "index.js") if file.is_file())
