"""Audio for the fake, which looks at its length alone."""

import io
import wave


def wav(duration_s: float, rate: int = 8000) -> bytes:
    """Return silence as a WAV file of 16 bits and one channel."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(bytes(2 * int(duration_s * rate)))
    return file.getvalue()
