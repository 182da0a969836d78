"""Phasic policy gradient (PPG) with a KL penalty to the pretrained policy (paper, section 4.4 and appendix G)."""
