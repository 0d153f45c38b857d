-- Closes a ledger entry exactly once, and may open the next attempt under the same hold.
-- KEYS: spend, open, leases, stream
-- ARGV: entry id, charge, record (JSON), next entry id ('' for none), next opening, lease until
-- Returns: {outcome, settled, reserved}; outcome 1 closed now, 0 it was closed before.
local opened = redis.call('HGET', KEYS[2], ARGV[1])
if not opened then
  return {
    0,
    tonumber(redis.call('HGET', KEYS[1], 'settled') or '0'),
    tonumber(redis.call('HGET', KEYS[1], 'reserved') or '0'),
  }
end
local hold = string.sub(opened, 1, string.find(opened, '|', 1, true) - 1)
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('XADD', KEYS[4], '*', 'e', ARGV[3])
local settled = redis.call('HINCRBY', KEYS[1], 'settled', ARGV[2])
local reserved
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[2], ARGV[4], hold .. '|' .. ARGV[5])
  redis.call('ZADD', KEYS[3], ARGV[6], ARGV[4])
  reserved = tonumber(redis.call('HGET', KEYS[1], 'reserved'))
else
  reserved = redis.call('HINCRBY', KEYS[1], 'reserved', '-' .. hold)
end
return {1, settled, reserved}
