"""Stored chats of each account: kept, continued, searched, exported."""
