"""The proxy killed, stopped and started over and over, and its disk filled up."""
