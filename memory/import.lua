-- Take over items with their ids, as they stood in another log; what is there already is passed over.
-- KEYS: meta, log, idem, idem-order, tombstone, segments, vectors, vector set
-- ARGV: 1 generation expected ("" any)  2 generation of a new one  3 name  4 created_ms
--       5 metadata JSON  6 instructions  7 retention_ms (0 keeps)  8 may follow a tombstone (0/1)
--       9 seq of the first record  10.. records
-- Returns {'OK', generation, items new, n_items}, or {'DELETED'}, or a refusal with a seq:
-- {'CONFLICT'} another item stands there, {'GAP'} items before it are missing, {'NOPARENT'}.
local meta, log, gone = KEYS[1], KEYS[2], KEYS[5]
local gen = redis.call('HGET', meta, 'gen')
if ARGV[1] ~= '' and ARGV[1] ~= gen then return {'DELETED'} end
if not gen and ARGV[8] == '0' and redis.call('EXISTS', gone) == 1 then return {'DELETED'} end

local function id_of(record) return record and string.match(record, '^([^\n]*)\n') end

local n, added, tip = redis.call('LLEN', log), {}, nil
local first = tonumber(ARGV[9])
local known = redis.call('LRANGE', log, first - 1, first + #ARGV - 11)
for i = 10, #ARGV do
  local seq, record = first + i - 10, ARGV[i]
  if seq <= n then
    if id_of(known[i - 9]) ~= id_of(record) then return {'CONFLICT', seq} end
  elseif seq ~= n + #added + 1 then
    return {'GAP', seq}
  else
    local parent = string.match(record, '^[^\n]*\n([^\n]*)\n')
    local at = tonumber(string.match(parent, '^msg_(%x+)_%x+$') or '0', 16)
    if parent ~= '' then
      local found = at > n and added[at - n] or at > 0 and redis.call('LINDEX', log, at - 1)
      if id_of(found) ~= parent then return {'NOPARENT', seq} end
    end
    added[#added + 1] = record
    tip = id_of(record)
  end
end

if not gen then
  gen = ARGV[2]
  redis.call('HSET', meta, 'gen', gen, 'epoch', '0', 'created', ARGV[4], 'name', ARGV[3],
             'metadata', ARGV[5], 'instructions', ARGV[6])
end
for _, record in ipairs(added) do redis.call('RPUSH', log, record) end
if tip then redis.call('HSET', meta, 'tip', tip) end
if ARGV[7] ~= '0' then
  for i, key in ipairs(KEYS) do
    if i ~= 5 then redis.call('PEXPIRE', key, ARGV[7]) end
  end
end
return {'OK', gen, #added, n + #added}
