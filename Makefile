help:
	@echo stub
