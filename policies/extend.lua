-- Raises the hold of an open entry, or refuses; what it held before stays either way.
-- KEYS: spend (hash: settled, reserved, exposed), open (hash: entry -> hold:worst|opening)
-- ARGV: 1 entry id  2 hold  3 worst case  4 limit (-1: none)  5 what settling may reach at most
-- Returns: {outcome, settled, reserved}; 1 held, 0 it does not fit, 2 the entry is not open.
local counts = redis.call('HMGET', KEYS[1], 'settled', 'reserved', 'exposed')
local settled, reserved = tonumber(counts[1] or '0'), tonumber(counts[2] or '0')
local opened = redis.call('HGET', KEYS[2], ARGV[1])
if not opened then return {2, settled, reserved} end

local bar = string.find(opened, '|', 1, true)
local hold, worst = string.match(string.sub(opened, 1, bar - 1), '^(%d+):?(%d*)$')
local more = math.max(0, tonumber(ARGV[2]) - tonumber(hold))
local wider = math.max(0, tonumber(ARGV[3]) - tonumber(worst ~= '' and worst or hold))
local limit, exposed = tonumber(ARGV[4]), tonumber(counts[3] or '0')
if limit >= 0 and (settled + reserved + more > limit
    or settled + exposed + wider > tonumber(ARGV[5])) then
  return {0, settled, reserved}
end
reserved = redis.call('HINCRBY', KEYS[1], 'reserved', string.format('%d', more))
redis.call('HINCRBY', KEYS[1], 'exposed', string.format('%d', wider))
local held = string.format('%d:%d', tonumber(hold) + more,
  tonumber(worst ~= '' and worst or hold) + wider)
redis.call('HSET', KEYS[2], ARGV[1], held .. string.sub(opened, bar))
return {1, settled, reserved}
