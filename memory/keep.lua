-- Keep a value for a while, findable by whom it is about.
-- KEYS: entry, the tenant's index of entries, then one set for each subject
-- ARGV: 1 value  2 ttl_s  3 most entries in the index (0: none is kept)
-- The sets are sorted by when their entries end: ended ones leave when the next one comes. Entries
-- past the index's bound go oldest first, because the embedded server does not evict.
local now = tonumber(redis.call('TIME')[1])
local ttl, most = tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('SET', KEYS[1], ARGV[1], 'EX', ttl)
for i = 3, #KEYS do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
  redis.call('ZADD', KEYS[i], now + ttl, KEYS[1])
  if redis.call('TTL', KEYS[i]) < ttl then redis.call('EXPIRE', KEYS[i], ttl) end
end
if most == 0 then return 0 end
redis.call('ZADD', KEYS[2], now, KEYS[1])
redis.call('EXPIRE', KEYS[2], 2592000)
local extra = redis.call('ZCARD', KEYS[2]) - most
if extra > 0 then
  for _, old in ipairs(redis.call('ZRANGE', KEYS[2], 0, extra - 1)) do redis.call('UNLINK', old) end
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, extra - 1)
end
return extra
