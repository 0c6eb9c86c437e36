-- Follows the prelude where slots can move between servers. A slot that comes back to a server may have lost operations elsewhere in the
-- meantime, while master_replid is what it was; importing a slot raises the server's configuration epoch, so both together are never reused.
local replid = incarnation
incarnation = function()
  return redis.sha1hex(replid() .. string.match(redis.call('CLUSTER', 'INFO'), 'cluster_my_epoch:(%d+)'))
end
