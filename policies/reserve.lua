-- Opens a ledger entry and holds money for it, or refuses.
-- KEYS: spend (hash: settled, reserved), open (hash: entry -> hold|opening), leases (zset)
-- ARGV: entry id, opening (JSON), hold, limit (-1: none), lease until (epoch s), spend expiry (epoch s)
-- Returns: {outcome, settled, reserved} after the operation; outcome 1 held, 0 refused.
local settled = tonumber(redis.call('HGET', KEYS[1], 'settled') or '0')
local reserved = tonumber(redis.call('HGET', KEYS[1], 'reserved') or '0')
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then
  return {1, settled, reserved}
end
local hold = tonumber(ARGV[3])
local limit = tonumber(ARGV[4])
if limit >= 0 and (settled >= limit or settled + reserved + hold > limit) then
  return {0, settled, reserved}
end
reserved = redis.call('HINCRBY', KEYS[1], 'reserved', ARGV[3])
redis.call('EXPIREAT', KEYS[1], ARGV[6])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3] .. '|' .. ARGV[2])
redis.call('ZADD', KEYS[3], ARGV[5], ARGV[1])
return {1, settled, reserved}
