-- Remove everything that was kept about a subject; see keep.lua.
-- KEYS: the subject's set, the tenant's index of entries    Returns how many entries there were.
local n = 0
for _, entry in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  n = n + redis.call('UNLINK', entry)
  redis.call('ZREM', KEYS[2], entry)
end
redis.call('UNLINK', KEYS[1])
return n
