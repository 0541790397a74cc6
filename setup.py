"""Packaging: every setting stands in settings.ini."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    keywords=cfg["keywords"],
    url=cfg["git_url"],
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    python_requires=f">={cfg['min_python']}",
    # The papers' tables and the prompts have one home each, nbs/published and nbs/prompts, and are
    # installed as biossl/published and biossl/prompts.
    packages=[*find_packages(include=["biossl", "biossl.*"]), "biossl.published", "biossl.prompts"],
    package_dir={"biossl.published": "nbs/published", "biossl.prompts": "nbs/prompts"},
    package_data={"biossl.published": ["*.csv", "*.toml", "*.md"], "biossl.prompts": ["*.json"]},
    install_requires=cfg["requirements"].split(),
    extras_require={
        "text": cfg["text_requirements"].split(),
        "book": cfg["book_requirements"].split(),
        "dev": cfg["dev_requirements"].split(),
    },
    entry_points={
        "console_scripts": [cfg["console_scripts"]],
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
