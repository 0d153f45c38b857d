-- Closes a ledger entry, counting it exactly once, and may open the next attempt under its hold.
-- KEYS: spend, open, leases, stream, orphans (hash: entry -> charge of its estimate)
-- ARGV: 1 entry id  2 charge  3 record (JSON)  4 next entry id ('' none)  5 next opening
--       6 lease until  7 orphan's lifetime (s, '' the closer knows the true end)
-- Returns: {outcome, settled, reserved}; outcome 1 counted now, 0 it had been before.
local opened = redis.call('HGET', KEYS[2], ARGV[1])
local orphan = not opened and redis.call('HGET', KEYS[5], ARGV[1])
local held, charge = '0:0', nil  -- hold:worst

if opened then
  if ARGV[7] ~= '' then
    -- Only an expired lease makes an orphan: its owner may have renewed it since the sweep looked.
    local lease = redis.call('ZSCORE', KEYS[3], ARGV[1])
    if lease and tonumber(lease) > tonumber(ARGV[6]) then return {0, 0, 0} end
    redis.call('HSET', KEYS[5], ARGV[1], ARGV[2])
    redis.call('EXPIRE', KEYS[5], ARGV[7])
  end
  held = string.sub(opened, 1, string.find(opened, '|', 1, true) - 1)
  redis.call('HDEL', KEYS[2], ARGV[1])
  redis.call('ZREM', KEYS[3], ARGV[1])
  charge = ARGV[2]
elseif orphan then
  redis.call('HDEL', KEYS[5], ARGV[1])
  charge = string.format('%d', tonumber(ARGV[2]) - tonumber(orphan))
elseif ARGV[7] ~= '' then
  return {0, 0, 0}
end

-- Closed before, or forgotten by a server that lost its memory: the books take an id once.
redis.call('XADD', KEYS[4], '*', 'e', ARGV[3])

-- A missing counter is filled from the books, which will hold this charge by then.
if charge and redis.call('HEXISTS', KEYS[1], 'settled') == 1 then
  redis.call('HINCRBY', KEYS[1], 'settled', charge)
end
if ARGV[4] ~= '' then
  redis.call('HSETNX', KEYS[2], ARGV[4], held .. '|' .. ARGV[5])
  redis.call('ZADD', KEYS[3], ARGV[6], ARGV[4])
elseif held ~= '0:0' then
  local hold, worst = string.match(held, '^(%d+):?(%d*)$')
  redis.call('HINCRBY', KEYS[1], 'reserved', '-' .. hold)
  -- An entry that was opened before there were worst cases added none.
  if worst ~= '' then redis.call('HINCRBY', KEYS[1], 'exposed', '-' .. worst) end
end
local counts = redis.call('HMGET', KEYS[1], 'settled', 'reserved')
return {charge and 1 or 0, tonumber(counts[1] or '0'), tonumber(counts[2] or '0')}
