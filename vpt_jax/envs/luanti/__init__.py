"""Luanti, a voxel game, controlled in real time through the keyboard and mouse of a virtual X screen."""
