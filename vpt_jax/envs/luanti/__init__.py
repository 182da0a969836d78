"""Luanti, a voxel game, played in real time through the keyboard and mouse of a virtual screen."""
