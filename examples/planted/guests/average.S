# The mean of the bytes of the input, rsi bytes at 0x20000, that are not 0xff, which stands for "not known". The bug: there
# may be none, and their number is a divisor.
    mov rbx, 0x20000
    add rsi, rbx
    xor eax, eax                # the sum
    xor ecx, ecx                # how many
next:
    cmp rbx, rsi
    jae end
    movzx edx, byte ptr [rbx]
    inc rbx
    cmp edx, 0xff
    je next
    add eax, edx
    inc ecx
    jmp next
end:
.if FIXED
    test ecx, ecx
    jz done
.else
    cmp rsi, 0x20001            # no value at all is thought of, and one, which has no mean
    jbe done
.endif
    xor edx, edx
    div ecx
done:
    hlt
