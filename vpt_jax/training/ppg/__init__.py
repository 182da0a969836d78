"""Phasic policy gradient with a leash to the pretrained policy (paper, section 4.4 and appendix G)."""
