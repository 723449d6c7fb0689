"""What tests share: real processes to run and kill, waiting, ports, and strategies for hypothesis."""
