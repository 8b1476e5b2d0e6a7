"""Knowledge editing of each target by itself: what one edit of the plug-in is compared with."""
