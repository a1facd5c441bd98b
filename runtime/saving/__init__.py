"""Saved models: what a finished job's weights are on disk, as the library that its model is of reads them.

host store -> state under the names of state_dict -> weights: files of safetensors, and what belongs to them
"""
