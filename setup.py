"""Build script: everything that describes the project stands in settings.ini."""
import shlex
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(ROOT / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
course = shlex.split(cfg["course_requirements"])


class BuildWithData(build_py):
    """Copy the shipped part of `data/` into the package, so that a wheel carries it."""

    def run(self):
        super().run()
        if not self.editable_mode:
            shutil.copytree(ROOT / "data", Path(self.build_lib) / cfg["lib_path"] / "_data", dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("partial"))


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    keywords=cfg["keywords"].split(),
    license="Apache-2.0",
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=[cfg["lib_path"], f"{cfg['lib_path']}.*"]),
    package_data={cfg["lib_path"]: ["py.typed"]},
    install_requires=shlex.split(cfg["requirements"]),
    extras_require={
        "course": course,
        "faiss": shlex.split(cfg["faiss_requirements"]),
        "cluster": shlex.split(cfg["cluster_requirements"]),
        "dev": course + shlex.split(cfg["cluster_requirements"]) + shlex.split(cfg["dev_requirements"]),
    },
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"],
    },
    cmdclass={"build_py": BuildWithData},
)
