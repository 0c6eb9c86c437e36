-- INCARNATION: which memory holds a partition now.
-- KEYS any key of the partition
return incarnation()
