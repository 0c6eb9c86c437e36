"""Several hosts on one machine: network namespaces on a bridge, real servers, clients that are cut from one another."""
