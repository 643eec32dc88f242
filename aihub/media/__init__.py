"""Images, audio and video from outside, decoded in limited processes."""
