"""Speech recognition with Vosk: files, live streams and the models behind them."""
