"""What pyproject.toml cannot say: each folder under plans, planner, runtime, tools is hydraplan's."""

from setuptools import find_packages, setup

folders = find_packages(include=["plans*", "planner*", "runtime*", "tools*"])
setup(packages=["hydraplan", *(f"hydraplan.{folder}" for folder in folders)])
