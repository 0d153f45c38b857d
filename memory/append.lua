-- Append items to a conversation, all or none; creates it where that is allowed.
-- KEYS: meta, log, idem, idem-order, tombstone, segments, vectors, vector set
-- ARGV: 1 now_ms  2 create (0 never, 1 if missing, 2 only if missing)  3 expected generation
--       4 expected tip ("" any, "-" empty)  5 parent ("" the tip)  6 idempotency digest ("")
--       7 body digest  8 retention_ms (0 keeps)  9 new generation  10 name
--       11 metadata JSON ("" leaves)  12 has instructions (0/1)  13 instructions
--       14 stamp of item ids  15 idempotency entries kept  16.. payloads
-- The tombstone says when the conversation was last deleted: an item said before that comes late
-- (a replayed journal, a turn that began before) and is refused, even where the name lives again.
-- Returns {status, ...}: OK/REPLAY generation epoch first_seq n_items created_ms parent, or a refusal.
local meta, log, idem, order, gone = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local state = redis.call('HMGET', meta, 'gen', 'epoch', 'tip', 'created')
local gen, epoch, tip, created = state[1], state[2], state[3] or '', state[4]

if not gen then
  if ARGV[2] == '0' or ARGV[3] ~= '' then
    if redis.call('EXISTS', gone) == 1 or ARGV[3] ~= '' then return {'DELETED'} end
    return {'MISSING'}
  end
else
  if ARGV[6] ~= '' then
    local seen = redis.call('HGET', idem, ARGV[6])
    if seen then
      local body, first, count = string.match(seen, '^(%x*):(%d+):(%d+)$')
      if body ~= ARGV[7] then return {'MISMATCH'} end
      local found = redis.call('LRANGE', log, first - 1, first + count - 2)
      return {'REPLAY', gen, epoch, tonumber(first), redis.call('LLEN', log), created, tip, found}
    end
  end
  if ARGV[2] == '2' then return {'EXISTS'} end
  if ARGV[3] ~= '' and ARGV[3] ~= gen then return {'DELETED'} end
end
if ARGV[3] == '' then
  local deleted = tonumber(redis.call('GET', gone) or '')
  if deleted and tonumber(ARGV[1]) < deleted then return {'DELETED'} end
end

if ARGV[4] ~= '' then
  local expected = ARGV[4]
  if expected == '-' then expected = '' end
  if expected ~= tip then return {'CONFLICT', tip} end
end
local parent = tip
if ARGV[5] ~= '' then
  parent = ARGV[5]
  local seq = tonumber(string.match(parent, '^msg_(%x+)_%x+$') or '0', 16)
  local record = seq and seq > 0 and redis.call('LINDEX', log, seq - 1)
  if not record or string.sub(record, 1, #parent + 1) ~= parent .. '\n' then return {'NOPARENT'} end
end

if not gen then
  gen, epoch, created = ARGV[9], '0', ARGV[1]
  redis.call('HSET', meta, 'gen', gen, 'epoch', epoch, 'created', created, 'name', ARGV[10])
end
if ARGV[11] ~= '' then redis.call('HSET', meta, 'metadata', ARGV[11]) end
if ARGV[12] == '1' then redis.call('HSET', meta, 'instructions', ARGV[13]) end

local n = redis.call('LLEN', log)
local first, first_parent = n + 1, parent
for i = 16, #ARGV do
  n = n + 1
  local id = string.format('msg_%x_', n) .. ARGV[14]
  redis.call('RPUSH', log, id .. '\n' .. parent .. '\n' .. ARGV[1] .. '\n' .. ARGV[i])
  parent = id
end
if n >= first then redis.call('HSET', meta, 'tip', parent) end

if ARGV[6] ~= '' then
  redis.call('HSET', idem, ARGV[6], ARGV[7] .. ':' .. first .. ':' .. (n - first + 1))
  if redis.call('RPUSH', order, ARGV[6]) > tonumber(ARGV[15]) then
    redis.call('HDEL', idem, redis.call('LPOP', order))
  end
end
if ARGV[8] ~= '0' then
  for i, key in ipairs(KEYS) do
    if i ~= 5 then redis.call('PEXPIRE', key, ARGV[8]) end
  end
end
return {'OK', gen, epoch, first, n, created, first_parent}
